//! One connection from CONNECT to its end, in MQTT 5 or 3.1.1. This folder and `requests::client` alone
//! name rumqttc.

pub(super) mod five;
pub(super) mod version_probe;
pub(super) mod three;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rumqttc::v5;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::window::PublishAck;
use crate::config::{self, Version};
use crate::tls::credentials::{Broker, first_line};

/// What happened on the connection, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Connected {
        packet_max_bytes: usize,
        receive_max: usize,
    },
    /// A QoS 1 publish got this packet id.
    Published(u16),
    Acked(u16, PublishAck),
    /// A subscription was answered: whether it stands.
    Subscribed(bool),
    /// A message came on it; retained or not.
    Received(bool),
    /// The last one.
    Lost(Lost),
}

/// Why a connection ended, or did not come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lost {
    /// The peer broke it; a message may be at fault.
    Broken(String),
    /// No answer came in time, there is no way to the broker, or it is too busy; no message is at fault.
    Unreachable(String),
    /// One end does not trust the other.
    Distrusted(String),
    /// The broker lacks what this node needs, or does not allow it: an operator has to change something.
    Unsupported(String),
    /// The broker does not speak this version of MQTT.
    Version(String),
    /// Another client came under this one's name; no message's fault.
    TakenOver(String),
}

impl Lost {
    pub(super) fn words(self) -> String {
        match self {
            Self::Broken(words)
            | Self::Unreachable(words)
            | Self::Distrusted(words)
            | Self::Unsupported(words)
            | Self::Version(words)
            | Self::TakenOver(words) => words,
        }
    }
}

/// How a message is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    /// With the user property [`REPLAYED`], where there are properties.
    Replayed,
    Retained,
}

/// Tells subscribers that speak MQTT 5 a replay from a first copy without a look at the payload.
pub(super) const REPLAYED: (&str, &str) = ("replayed", "true");

/// How a client that publishes presents itself in CONNECT.
pub(super) struct PublisherId {
    pub(super) client_id: String,
    pub(super) will_topic: String,
    pub(super) will_payload: &'static str,
}

pub(super) struct Connection {
    client: Client,
    signals: mpsc::Receiver<Signal>,
    poller: JoinHandle<()>,
}

pub(super) enum Client {
    Five(v5::AsyncClient),
    Three(rumqttc::AsyncClient),
}

/// The client's side that has to be polled.
enum Loop {
    Five(Box<v5::EventLoop>),
    Three(Box<rumqttc::EventLoop>),
}

/// What one poll came to.
enum Step {
    Signals(Vec<Signal>),
    /// DISCONNECT was sent.
    Left,
    /// The end; what came in one read with it stands before it.
    Ended(Vec<Signal>),
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}", path.display())]
pub(super) struct CredentialError {
    path: PathBuf,
    source: std::io::Error,
}

/// User name and password.
type Login = (String, String);

/// Largest MQTT packet there is: what a broker takes that announces no limit.
pub(super) const PACKET_MAX_BYTES: usize = 268_435_455;

/// Presence and health beside a full window.
const SPARE_REQUESTS: usize = 16;

/// Packet ids go round below this; far above the window, so that none is taken twice.
const PACKET_ID_MAX: u16 = 4096;

impl Connection {
    pub(super) fn open(
        level: Version,
        mqtt: &config::Mqtt,
        broker: &Broker,
        publisher: PublisherId,
    ) -> Result<Self, CredentialError> {
        let room = mqtt.window_max_messages + SPARE_REQUESTS;
        let (client, eventloop) = match level {
            Version::Five => {
                let options = five::publisher(mqtt, broker, publisher)?;
                let (client, eventloop) = v5::AsyncClient::new(options, room);
                (Client::Five(client), Loop::Five(Box::new(eventloop)))
            }
            Version::Three => {
                let options = three::publisher(mqtt, broker, publisher)?;
                let (client, eventloop) = three::client(options, room, mqtt.connect_timeout_s);
                (Client::Three(client), Loop::Three(Box::new(eventloop)))
            }
        };
        let (sender, signals) = mpsc::channel(64);
        let poller = tokio::spawn(poll(eventloop, sender));
        Ok(Self {
            client,
            signals,
            poller,
        })
    }

    /// Waits for signals and takes all that are there. Dropping the future loses none.
    pub(super) async fn signals(&mut self) -> Vec<Signal> {
        let mut signals = Vec::new();
        if self.signals.recv_many(&mut signals, 64).await == 0 {
            let words = "the connection task ended".to_owned();
            signals.push(Signal::Lost(Lost::Unreachable(words)));
        }
        signals
    }

    /// False when the client has no room; nothing was sent then.
    pub(super) fn publish(&self, topic: String, payload: Vec<u8>, kind: Kind) -> bool {
        match &self.client {
            Client::Five(client) => five::publish(client, topic, payload, kind),
            Client::Three(client) => {
                let (qos, retain) = (rumqttc::QoS::AtLeastOnce, kind == Kind::Retained);
                client.try_publish(topic, qos, retain, payload).is_ok()
            }
        }
    }

    /// With QoS 0, for messages that the next one replaces.
    pub(super) fn publish_at_most_once(&self, topic: String, payload: Vec<u8>) -> bool {
        match &self.client {
            Client::Five(client) => {
                let qos = v5::mqttbytes::QoS::AtMostOnce;
                client.try_publish(topic, qos, false, payload).is_ok()
            }
            Client::Three(client) => {
                let qos = rumqttc::QoS::AtMostOnce;
                client.try_publish(topic, qos, false, payload).is_ok()
            }
        }
    }

    /// Brings [`Signal::Subscribed`], then [`Signal::Received`]. False when the client has no room.
    pub(super) fn subscribe(&self, topic: String) -> bool {
        match &self.client {
            Client::Five(client) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                client.try_subscribe(topic, qos).is_ok()
            }
            Client::Three(client) => {
                let qos = rumqttc::QoS::AtLeastOnce;
                client.try_subscribe(topic, qos).is_ok()
            }
        }
    }

    /// The broker drops the will.
    pub(super) async fn close(mut self) {
        self.client.leave(&mut self.poller).await;
    }
}

impl Client {
    /// DISCONNECT.
    pub(super) async fn leave(&self, poller: &mut JoinHandle<()>) {
        const DISCONNECT_TIMEOUT: Duration = Duration::from_millis(500);
        let leaves = match self {
            Self::Five(client) => client.try_disconnect().is_ok(),
            Self::Three(client) => client.try_disconnect().is_ok(),
        };
        if leaves {
            // The broker closes the connection; without it the poller is simply dropped.
            let _ = tokio::time::timeout(DISCONNECT_TIMEOUT, poller).await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

/// Polls apart from the publisher, because a poll that is dropped half-way leaves bytes unsent.
async fn poll(mut eventloop: Loop, sender: mpsc::Sender<Signal>) {
    loop {
        let step = match &mut eventloop {
            Loop::Five(eventloop) => five::step(eventloop).await,
            Loop::Three(eventloop) => three::step(eventloop).await,
        };
        let (signals, ended) = match step {
            Step::Signals(signals) => (signals, false),
            Step::Ended(signals) => (signals, true),
            Step::Left => return,
        };
        for signal in signals {
            // The receiver is gone when the publisher has left too.
            if sender.send(signal).await.is_err() {
                return;
            }
        }
        if ended {
            return;
        }
    }
}

/// Whether the way to the broker is at fault.
fn is_silence(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
    )
}

/// User name and password, where the configuration names them.
fn login(broker: &Broker) -> Result<Option<Login>, CredentialError> {
    let Some(user) = &broker.username_file else {
        return Ok(None);
    };
    let password = broker.password_file.as_deref().map(secret).transpose()?;
    Ok(Some((secret(user)?, password.unwrap_or_default())))
}

fn secret(path: &Path) -> Result<String, CredentialError> {
    first_line(path).map_err(|source| CredentialError {
        path: path.to_owned(),
        source,
    })
}
