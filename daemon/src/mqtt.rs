//! Outbox to broker: MQTT 5, or 3.1.1 where the broker has no 5, QoS 1. The client library only carries
//! bytes: every connection gets a client of its own, the [`Window`] knows what is in flight, and the outbox keeps
//! every message until its PUBACK.
//!
//! Topics below `<base>/v1/<node>/`: `availability` (retained, will `offline`), `state`, `info` and
//! `model/<slot>` (retained), `health`, and from the outbox `result/<source>`, `mask/<job>/<part>`, `event`;
//! in the other direction `request/<verb>`, answered at `response/<verb>`.

mod replay;
mod acks;
mod connection;
mod version_choice;
mod feed;
mod delivery;
mod presence;
pub(crate) mod probe;
mod nacks;
mod requests;
mod session;
mod ack_timeout;
mod window;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::backoff::Backoff;
use crate::config::{Config, Protocol};
use crate::failure::Failure;
use crate::models::Models;
use crate::outbox::{Outbox, OutboxError};
use crate::report::encode::Encoder;
use crate::shutdown::stopped;
use crate::spool::{AcceptError, Spool};
use crate::status::Status;
use crate::tls::credentials::Credentials;

use connection::version_probe::probe_version;
use connection::{Connection, Lost, PublisherId};
use delivery::Delivery;
use session::{End, Session};
use version_choice::{DuplicateClients, VersionChoice};
use window::{MessageKey, Window};

pub use requests::Requests;
pub(crate) use requests::refusal_reasons;

#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    #[error(transparent)]
    Accept(#[from] AcceptError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error("a task of the publisher ended by a panic: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What the publisher shares with other tasks.
pub struct PublisherContext {
    pub encoder: Encoder,
    pub outbox: Arc<Outbox>,
    pub spool: Spool,
    pub models: Arc<Models>,
    pub status: Arc<Status>,
    pub credentials: watch::Receiver<Credentials>,
}

/// Sends what the outbox holds to the broker.
pub struct Publisher {
    config: Arc<Config>,
    encoder: Encoder,
    outbox: Arc<Outbox>,
    models: Arc<Models>,
    status: Arc<Status>,
    credentials: watch::Receiver<Credentials>,
    delivery: Delivery,
    window: Window,
    backoff: Backoff,
    root: String,
    /// The cause of the present outage that was logged last.
    outage: String,
    /// Connections in a row that ended by an ack timeout before anything was delivered.
    ack_timeouts: u32,
    version_choice: VersionChoice,
    /// Since when the broker has accepted the present connection, or the last one until its end is handled.
    connected_at: Option<Instant>,
    duplicate_clients: DuplicateClients,
    started: std::time::Instant,
}

const TICK: Duration = Duration::from_millis(200);

const NO_ACKS: &str = "the broker acknowledges nothing; on a slow link raise `mqtt.ack_timeout_ms` \
                       and `mqtt.keep_alive_s`, or lower `mqtt.inline_max_bytes`";

impl Publisher {
    pub fn new(config: &Config, context: PublisherContext) -> Self {
        let PublisherContext {
            encoder,
            outbox,
            spool,
            models,
            status,
            credentials,
        } = context;
        let mqtt = &config.mqtt;
        let delivery = Delivery {
            outbox: Arc::clone(&outbox),
            spool,
            encoder: encoder.clone(),
            status: Arc::clone(&status),
        };
        Self {
            delivery,
            window: Window::new(mqtt.window_max_messages, mqtt.strikes_max),
            backoff: Backoff::new(mqtt.backoff_min_ms, mqtt.backoff_max_ms),
            root: mqtt.root(&config.node),
            outage: String::new(),
            ack_timeouts: 0,
            version_choice: VersionChoice::new(mqtt.protocol),
            connected_at: None,
            duplicate_clients: DuplicateClients::default(),
            config: Arc::new(config.clone()),
            encoder,
            outbox,
            models,
            status,
            credentials,
            started: std::time::Instant::now(),
        }
    }

    /// Publishes until `stop`, then what is left within `grace`.
    pub async fn run(
        mut self,
        fresh: Arc<Notify>,
        mut stop: watch::Receiver<bool>,
        grace: Duration,
    ) -> Result<(), MqttError> {
        loop {
            match self.session(&fresh, &mut stop, grace).await? {
                End::Stopped => return Ok(()),
                End::Lost(lost) => self.connection_lost(lost).await?,
            }
            let wait = self.backoff.wait();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // An operator has exchanged the credentials, which may be the remedy.
                Ok(()) = self.credentials.changed() => self.backoff.reset(),
                () = stopped(&mut stop) => return Ok(()),
            }
        }
    }

    /// Logs why the connection ended, and lets the window decide whether a message is at fault.
    async fn connection_lost(&mut self, lost: Lost) -> Result<(), MqttError> {
        let lived = self.connected_at.take().map(|since| since.elapsed());
        self.version_choice.ended(&lost, lived.is_some());
        match lost {
            Lost::Unreachable(words) => {
                self.window.connection_ended();
                self.status.disconnected(None);
                self.log_outage(words);
            }
            // The next attempt speaks the other version, so this is no outage yet.
            Lost::Version(words) if self.config.mqtt.protocol == Protocol::Auto => {
                self.window.connection_ended();
                self.status.disconnected(None);
                tracing::info!(error = words, "the other MQTT is tried");
            }
            Lost::Distrusted(words) | Lost::Unsupported(words) => self.refused_by_broker(words),
            Lost::Version(words) => {
                self.refused_by_broker(format!("{words}; set `mqtt.protocol` to \"auto\""));
            }
            Lost::TakenOver(words) => {
                self.refused_by_broker(format!("{words}; {}", self.duplicate_client_hint()));
            }
            Lost::Broken(words) => {
                let words = match lived {
                    Some(lived) if self.duplicate_clients.ended(lived) => {
                        format!(
                            "{words}, again soon after CONNACK; {}",
                            self.duplicate_client_hint()
                        )
                    }
                    _ => words,
                };
                self.status.disconnected(None);
                self.log_outage(words);
                let strikes = self.config.mqtt.strikes_max;
                match self.window.connection_broke() {
                    Some(MessageKey::Fresh(key)) => {
                        self.delivery
                            .give_up_message(key, Failure::Poison { strikes })
                            .await?;
                    }
                    Some(MessageKey::Replayed(key)) => self.skip_replayed(key).await?,
                    None => {}
                }
            }
        }
        Ok(())
    }

    fn duplicate_client_hint(&self) -> String {
        let node = &self.config.node;
        format!("is there another client called {node}? Give every box a `node` of its own")
    }

    /// The broker refuses the connection until an operator changes something.
    fn refused_by_broker(&mut self, words: String) {
        self.window.connection_ended();
        self.status.disconnected(Some(words.clone()));
        self.log_refused(words);
    }

    /// Warns once of each outage.
    fn log_outage(&mut self, error: String) {
        self.status.away(&error);
        if error == self.outage {
            tracing::debug!(error, "no connection to the broker");
        } else {
            tracing::warn!(error, "no connection to the broker, results are kept");
        }
        self.outage = error;
    }

    /// As [`Self::log_outage`], for an outage that only an operator can end.
    fn log_refused(&mut self, error: String) {
        self.status.away(&error);
        if error == self.outage {
            tracing::debug!(error, "no connection to the broker");
        } else {
            tracing::error!(
                error,
                "no connection to the broker until an operator helps, results are kept"
            );
        }
        self.outage = error;
    }

    fn publisher_id(&self) -> PublisherId {
        PublisherId {
            client_id: self.config.node.clone(),
            will_topic: self.topic("availability"),
            will_payload: "offline",
        }
    }

    /// Runs one connection to its end.
    async fn session(
        &mut self,
        fresh: &Notify,
        stop: &mut watch::Receiver<bool>,
        grace: Duration,
    ) -> Result<End, MqttError> {
        let (mqtt, node) = (&self.config.mqtt, &*self.config.node);
        let broker = self.credentials.borrow_and_update().mqtt.clone();
        if self.version_choice.must_probe() {
            let reply = tokio::select! {
                reply = probe_version(mqtt, &broker, node) => reply,
                () = stopped(stop) => return Ok(End::Stopped),
            };
            if let Err(words) = self.version_choice.replied(reply) {
                return Ok(End::Lost(Lost::Unsupported(words.to_owned())));
            }
        }
        let publisher = self.publisher_id();
        let mut session =
            match Connection::open(self.version_choice.level(), mqtt, &broker, publisher) {
                Ok(connection) => Session::new(connection, mqtt, self.ack_timeouts),
                Err(error) => return Ok(End::Lost(Lost::Distrusted(error.to_string()))),
            };
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline: Option<Instant> = None;
        loop {
            let mut signals = Vec::new();
            // In this order: acknowledgements that have come in are read before the tick checks the ack timeout.
            tokio::select! {
                biased;
                () = stopped(stop), if deadline.is_none() => {
                    if !session.is_connected() {
                        return Ok(End::Stopped);
                    }
                    deadline = Some(Instant::now() + grace);
                    session.draining = true;
                }
                received = session.connection.signals() => signals = received,
                _ = tick.tick() => if self.ack_is_overdue(&session) {
                    self.ack_timeouts += 1;
                    return Ok(End::Lost(Lost::Unreachable(NO_ACKS.to_owned())));
                },
                () = fresh.notified() => session.replay.want(),
            }
            let began = Instant::now();
            let end = self.handle(&mut session, signals).await?;
            self.connected_at = session.connected_at;
            if let Some(end) = end {
                return Ok(end);
            }
            let exhausted = session.is_connected() && self.fill(&mut session).await?;
            self.publish_state(&mut session).await?;
            session.ack_timer.exclude(began, Instant::now());
            if self.is_stable(&session) {
                self.backoff.reset();
                self.duplicate_clients.connection_held();
            }
            if let Some(deadline) = deadline {
                let drained = exhausted && self.window.is_empty();
                if drained || Instant::now() >= deadline {
                    self.publish_stopped(session).await?;
                    return Ok(End::Stopped);
                }
            }
        }
    }

    fn ack_is_overdue(&self, session: &Session) -> bool {
        let owed = session.is_connected() && !self.window.is_empty();
        owed && session.ack_timer.has_expired(Instant::now())
    }

    /// The connection has stood for long enough to be called good; a node may have nothing to publish that proves it.
    fn is_stable(&self, session: &Session) -> bool {
        let enough = Duration::from_millis(self.config.mqtt.backoff_max_ms);
        session
            .connected_at
            .is_some_and(|since| since.elapsed() > enough)
    }

    fn topic(&self, below: &str) -> String {
        format!("{}{below}", self.root)
    }
}
