//! Outbox to broker: MQTT 5, QoS 1. The client library is a pipe here, nothing more: every connection
//! gets a client of its own, the [`Window`] knows what is in flight, and the outbox keeps every
//! message until its PUBACK.
//!
//! Topics below `<base>/v1/<node>/`: `availability` (retained, will `offline`), `state` and `info`
//! (retained), `health`, and from the outbox `result/<source>`, `mask/<job>/<part>`, `event`.

mod backoff;
mod connection;
mod letters;
mod presence;
mod window;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::accept::{AcceptError, Shelves};
use crate::config::Config;
use crate::encode::Speaker;
use crate::failure::Failure;
use crate::outbox::{Key, Message, Outbox, OutboxError};
use crate::shutdown::stopped;
use crate::status::Status;

use backoff::Backoff;
use connection::{Connection, Signal};
use letters::Letters;
use window::{Item, Outcome, Window};

#[derive(Debug, thiserror::Error)]
pub enum MqttError {
    #[error(transparent)]
    Accept(#[from] AcceptError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error("a task of the publisher ended by a panic: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Owns the broker's side of the outbox.
pub struct Publisher {
    config: Arc<Config>,
    speaker: Speaker,
    outbox: Arc<Outbox>,
    status: Arc<Status>,
    letters: Letters,
    window: Window,
    backoff: Backoff,
    root: String,
    started: std::time::Instant,
}

/// One connection's share of the state.
struct Session {
    connection: Connection,
    connected: bool,
    packet_max_bytes: usize,
    /// Last message handed to the client.
    cursor: Option<Key>,
    /// When the broker last answered, or was first asked.
    progress: Instant,
    /// When each message in flight was handed over.
    sent: HashMap<Key, Instant>,
    health_due: Instant,
    /// State as last published.
    said: Option<(&'static str, Vec<&'static str>)>,
}

enum End {
    Stopped,
    /// The connection broke with this in flight.
    Broke(String),
    /// The broker answers, but not with yes.
    Refused,
}

const TICK: Duration = Duration::from_millis(200);

impl Publisher {
    pub fn new(
        config: &Config,
        speaker: Speaker,
        outbox: Arc<Outbox>,
        shelves: Shelves,
        status: Arc<Status>,
    ) -> Self {
        let mqtt = &config.mqtt;
        let letters = Letters {
            outbox: Arc::clone(&outbox),
            shelves,
            speaker: speaker.clone(),
            status: Arc::clone(&status),
        };
        Self {
            letters,
            window: Window::new(mqtt.window_max_messages, mqtt.strikes_max),
            backoff: Backoff::new(mqtt.backoff_min_ms, mqtt.backoff_max_ms),
            root: mqtt.root(&config.node),
            config: Arc::new(config.clone()),
            speaker,
            outbox,
            status,
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
        let mut said = String::new();
        loop {
            match self.session(&fresh, &mut stop, grace).await? {
                End::Stopped => return Ok(()),
                End::Refused => {
                    self.window.closed();
                    tracing::error!("the broker refuses messages of this node; check its rules");
                }
                End::Broke(error) => {
                    // One warning for one outage.
                    if error == said {
                        tracing::debug!(error, "no connection to the broker");
                    } else {
                        tracing::warn!(error, "no connection to the broker, results are kept");
                    }
                    said = error;
                    if let Some(key) = self.window.broke() {
                        let strikes = self.config.mqtt.strikes_max;
                        self.letters.dead(key, Failure::Poison { strikes }).await?;
                    }
                }
            }
            let wait = self.backoff.wait();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopped(&mut stop) => return Ok(()),
            }
        }
    }

    /// One connection.
    async fn session(
        &mut self,
        fresh: &Notify,
        stop: &mut watch::Receiver<bool>,
        grace: Duration,
    ) -> Result<End, MqttError> {
        let will = (self.topic("availability"), "offline");
        let connection = match Connection::open(&self.config.mqtt, &self.config.node, will) {
            Ok(connection) => connection,
            Err(error) => return Ok(End::Broke(error.to_string())),
        };
        let now = Instant::now();
        let mut session = Session {
            connection,
            connected: false,
            packet_max_bytes: 0,
            cursor: None,
            progress: now,
            sent: HashMap::new(),
            health_due: now + Duration::from_secs(self.config.mqtt.health_interval_s),
            said: None,
        };
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline: Option<Instant> = None;
        loop {
            tokio::select! {
                signals = session.connection.signals() => {
                    if let Some(end) = self.handle(&mut session, signals).await? {
                        return Ok(end);
                    }
                }
                () = fresh.notified() => {}
                _ = tick.tick() => {
                    if self.silent(&session) {
                        return Ok(End::Broke("the broker acknowledges nothing".to_owned()));
                    }
                    self.tell(&mut session).await?;
                }
                () = stopped(stop), if deadline.is_none() => {
                    if !session.connected {
                        return Ok(End::Stopped);
                    }
                    deadline = Some(Instant::now() + grace);
                }
            }
            let exhausted = session.connected && self.fill(&mut session).await?;
            if let Some(deadline) = deadline {
                let drained = exhausted && self.window.is_empty();
                if drained || Instant::now() >= deadline {
                    self.farewell(session).await?;
                    return Ok(End::Stopped);
                }
            }
        }
    }

    async fn handle(
        &mut self,
        session: &mut Session,
        signals: Vec<Signal>,
    ) -> Result<Option<End>, MqttError> {
        let mut delivered = Vec::new();
        let mut end = None;
        for signal in signals {
            match signal {
                Signal::Connected {
                    packet_max_bytes,
                    receive_max,
                } => {
                    session.packet_max_bytes = packet_max_bytes;
                    self.window
                        .set_limit(receive_max.min(self.config.mqtt.window_max_messages));
                    session.connected = true;
                    session.progress = Instant::now();
                    self.status.count_connect();
                    tracing::info!(host = self.config.mqtt.host, "connected to the broker");
                    self.greet(session).await?;
                }
                Signal::Published(packet_id) => self.window.published(packet_id),
                Signal::Answered(packet_id, verdict) => {
                    session.progress = Instant::now();
                    match self.window.answered(packet_id, verdict) {
                        Outcome::Delivered(key) => {
                            let publish_ms = session
                                .sent
                                .remove(&key)
                                .map(|sent| sent.elapsed().as_millis() as u64);
                            tracing::debug!(seq = key.0, part = key.1, publish_ms, "acknowledged");
                            delivered.push(key);
                        }
                        Outcome::Refused => end = Some(End::Refused),
                        Outcome::Invalid(key) => {
                            let failure = Failure::Refused {
                                code: "invalid message".to_owned(),
                            };
                            self.letters.dead(key, failure).await?;
                        }
                        Outcome::Presence => self.backoff.reset(),
                        Outcome::Unknown => {
                            tracing::warn!(packet_id, "answer to a message that is not in flight");
                        }
                    }
                }
                Signal::Lost(error) => end = Some(End::Broke(error)),
            }
        }
        if !delivered.is_empty() {
            self.letters.delivered(delivered).await?;
        }
        Ok(end)
    }

    /// Sends what the window admits. True when the outbox has nothing more to send.
    async fn fill(&mut self, session: &mut Session) -> Result<bool, MqttError> {
        let limit = self.config.mqtt.window_max_messages;
        while self.window.has_room() {
            let rows = self.letters.next(session.cursor, limit).await?;
            let exhausted = rows.len() < limit;
            for row in rows {
                if !self.window.admits(row.key) {
                    return Ok(false);
                }
                if packet_bytes(&self.root, &row.message) > session.packet_max_bytes {
                    let overhead =
                        packet_bytes(&self.root, &row.message) - row.message.payload.len();
                    let room = session.packet_max_bytes.saturating_sub(overhead);
                    self.letters.too_large(row, room).await?;
                    // The place now holds other messages or none.
                    return Ok(false);
                }
                if !self.send(session, Item::Durable(row.key), row.message, false) {
                    return Ok(false);
                }
                session.sent.insert(row.key, Instant::now());
                session.cursor = Some(row.key);
            }
            if exhausted {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn send(&mut self, session: &mut Session, item: Item, message: Message, retain: bool) -> bool {
        if self.window.is_empty() {
            session.progress = Instant::now();
        }
        let sent = session
            .connection
            .publish(self.topic(&message.topic), message.payload, retain);
        if sent {
            self.window.handed(item);
        }
        sent
    }

    fn silent(&self, session: &Session) -> bool {
        let patience = Duration::from_millis(self.config.mqtt.ack_timeout_ms);
        session.connected && !self.window.is_empty() && session.progress.elapsed() > patience
    }

    fn topic(&self, below: &str) -> String {
        format!("{}{below}", self.root)
    }
}

/// Size of the PUBLISH packet: fixed header (at most 5), topic, packet id, no properties, payload.
fn packet_bytes(root: &str, message: &Message) -> usize {
    5 + 2 + root.len() + message.topic.len() + 2 + 1 + message.payload.len()
}
