//! One MQTT 5 connection from CONNECT to its end. With `requests::wire` the only place that names
//! rumqttc.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, LastWill, Packet, PubAckReason, PublishProperties,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, StateError};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::window::Verdict;
use crate::config;
use crate::credentials::{Broker, first_line};
use crate::tls;

/// What happened on the connection, in order.
#[derive(Debug)]
pub(super) enum Signal {
    Connected {
        packet_max_bytes: usize,
        receive_max: usize,
    },
    /// A QoS 1 publish got this packet id.
    Published(u16),
    Answered(u16, Verdict),
    /// The last one: the peer broke the connection, or it never stood.
    Broken(String),
    /// The last one: no answer in time, or no way to the broker.
    Silent(String),
    /// The last one: one end does not trust the other.
    Distrusted(String),
}

/// How a message is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    /// With the user property [`REPLAYED`].
    Replayed,
    Retained,
}

/// Tells subscribers that speak MQTT 5 a replay from a first copy. The payload is the same.
pub(super) const REPLAYED: (&str, &str) = ("replayed", "true");

pub(super) struct Connection {
    client: AsyncClient,
    signals: mpsc::Receiver<Signal>,
    poller: JoinHandle<()>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}", path.display())]
pub(super) struct CredentialError {
    path: PathBuf,
    source: std::io::Error,
}

/// Largest MQTT packet there is: what a broker takes that announces no limit.
const PACKET_MAX_BYTES: usize = 268_435_455;

/// Presence and health beside a full window.
const SPARE_REQUESTS: usize = 16;

impl Connection {
    pub(super) fn open(
        mqtt: &config::Mqtt,
        broker: &Broker,
        node: &str,
        will: (String, &'static str),
    ) -> Result<Self, CredentialError> {
        let mut options = options(mqtt, broker, node)?;
        options.set_clean_start(true).set_last_will(LastWill::new(
            will.0,
            will.1,
            QoS::AtLeastOnce,
            true,
            None,
        ));
        // Packet ids go round below this; far above the window, so that none is taken twice.
        options.set_outgoing_inflight_upper_limit(4096);
        let (client, eventloop) =
            AsyncClient::new(options, mqtt.window_max_messages + SPARE_REQUESTS);
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
            signals.push(Signal::Silent("the connection task ended".to_owned()));
        }
        signals
    }

    /// False when the client has no room; nothing was sent then.
    pub(super) fn publish(&self, topic: String, payload: Vec<u8>, kind: Kind) -> bool {
        let retain = kind == Kind::Retained;
        let (qos, client) = (QoS::AtLeastOnce, &self.client);
        let published = if kind == Kind::Replayed {
            let (name, value) = REPLAYED;
            let properties = PublishProperties {
                user_properties: vec![(name.to_owned(), value.to_owned())],
                ..PublishProperties::default()
            };
            client.try_publish_with_properties(topic, qos, retain, payload, properties)
        } else {
            client.try_publish(topic, qos, retain, payload)
        };
        published.is_ok()
    }

    /// At most once; for what is outdated soon.
    pub(super) fn announce(&self, topic: String, payload: Vec<u8>) -> bool {
        self.client
            .try_publish(topic, QoS::AtMostOnce, false, payload)
            .is_ok()
    }

    /// The broker drops the will.
    pub(super) async fn close(mut self) {
        leave(&self.client, &mut self.poller).await;
    }
}

/// How to reach the broker, and as whom.
pub(super) fn options(
    mqtt: &config::Mqtt,
    broker: &Broker,
    client_id: &str,
) -> Result<MqttOptions, CredentialError> {
    let mut options = MqttOptions::new(client_id, mqtt.host.clone(), mqtt.port);
    options
        .set_keep_alive(Duration::from_secs(mqtt.keep_alive_s))
        .set_connection_timeout(mqtt.connect_timeout_s);
    if let Some(tls) = &broker.tls {
        let tls = TlsConfiguration::Rustls(Arc::clone(tls));
        options.set_transport(Transport::Tls(tls));
    }
    if let Some(path) = &broker.username_file {
        let password = broker.password_file.as_deref().map(secret).transpose()?;
        options.set_credentials(secret(path)?, password.unwrap_or_default());
    }
    Ok(options)
}

/// DISCONNECT.
pub(super) async fn leave(client: &AsyncClient, poller: &mut JoinHandle<()>) {
    const PATIENCE: Duration = Duration::from_millis(500);
    if client.try_disconnect().is_ok() {
        // The broker closes the connection; without it the poller is simply dropped.
        let _ = tokio::time::timeout(PATIENCE, poller).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

/// Polls apart from the publisher, because a poll that is dropped half-way leaves bytes unsent.
async fn poll(mut eventloop: EventLoop, signals: mpsc::Sender<Signal>) {
    loop {
        let lost = match eventloop.poll().await {
            Ok(Event::Outgoing(Outgoing::Disconnect)) => return,
            Ok(event) => {
                if let Some(signal) = signal(event)
                    && signals.send(signal).await.is_err()
                {
                    return;
                }
                continue;
            }
            Err(error) => lost(&error),
        };
        // Answers that came in one read with what broke the connection.
        for event in std::mem::take(&mut eventloop.state.events) {
            if let Some(signal) = signal(event)
                && signals.send(signal).await.is_err()
            {
                return;
            }
        }
        // Nobody listens any more only when the publisher has left too.
        let _ = signals.send(lost).await;
        return;
    }
}

fn signal(event: Event) -> Option<Signal> {
    match event {
        Event::Incoming(Packet::ConnAck(ack)) => {
            let properties = ack.properties.as_ref();
            let packet_max = properties.and_then(|properties| properties.max_packet_size);
            let receive_max = properties.and_then(|properties| properties.receive_max);
            Some(Signal::Connected {
                packet_max_bytes: packet_max.map_or(PACKET_MAX_BYTES, |max| max as usize),
                receive_max: receive_max.map_or(usize::MAX, usize::from),
            })
        }
        // QoS 0 has packet id 0.
        Event::Outgoing(Outgoing::Publish(packet_id)) if packet_id != 0 => {
            Some(Signal::Published(packet_id))
        }
        Event::Incoming(Packet::PubAck(ack)) => {
            Some(Signal::Answered(ack.pkid, verdict(ack.reason)))
        }
        _ => None,
    }
}

fn verdict(reason: PubAckReason) -> Verdict {
    match reason {
        PubAckReason::Success => Verdict::Accepted,
        PubAckReason::NoMatchingSubscribers => Verdict::Unheard,
        PubAckReason::TopicNameInvalid => Verdict::Invalid("topic name invalid (0x90)"),
        PubAckReason::PayloadFormatInvalid => Verdict::Invalid("payload format invalid (0x99)"),
        PubAckReason::UnspecifiedError => Verdict::Refused("unspecified error (0x80)"),
        PubAckReason::ImplementationSpecificError => {
            Verdict::Refused("implementation specific error (0x83)")
        }
        PubAckReason::NotAuthorized => Verdict::Refused("not authorized (0x87)"),
        PubAckReason::PacketIdentifierInUse => Verdict::Refused("packet identifier in use (0x91)"),
        PubAckReason::QuotaExceeded => Verdict::Refused("quota exceeded (0x97)"),
    }
}

fn lost(error: &ConnectionError) -> Signal {
    let io = match error {
        ConnectionError::Io(error) | ConnectionError::MqttState(StateError::Io(error)) => {
            Some(error.kind())
        }
        _ => None,
    };
    let silent = matches!(
        error,
        ConnectionError::Timeout(_)
            | ConnectionError::MqttState(StateError::AwaitPingResp | StateError::CollisionTimeout)
    ) || matches!(
        io,
        Some(
            ErrorKind::TimedOut
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::NetworkDown
        )
    );
    if tls_error(error).is_some() || is_refusal(error) {
        Signal::Distrusted(words(error))
    } else if silent {
        Signal::Silent(words(error))
    } else {
        Signal::Broken(words(error))
    }
}

/// The broker knows this user or this name, and does not want it.
fn is_refusal(error: &ConnectionError) -> bool {
    use ConnectReturnCode::{BadUserNamePassword, NotAuthorized};
    matches!(
        error,
        ConnectionError::ConnectionRefused(BadUserNamePassword | NotAuthorized)
    )
}

pub(super) fn words(error: &ConnectionError) -> String {
    if let Some(error) = tls_error(error) {
        return tls::words(error, "the broker", "mqtt");
    }
    match error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::UnsupportedProtocolVersion) => {
            "the broker does not speak MQTT 5, which scansided needs; upgrade or reconfigure it"
                .to_owned()
        }
        ConnectionError::ConnectionRefused(
            code @ (ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized),
        ) => format!("the broker refuses this user ({code:?}); check username and password file"),
        ConnectionError::Timeout(_) => {
            "no answer to CONNECT in time; the broker hangs or does not speak MQTT 5".to_owned()
        }
        error => error.to_string(),
    }
}

fn secret(path: &Path) -> Result<String, CredentialError> {
    first_line(path).map_err(|source| CredentialError {
        path: path.to_owned(),
        source,
    })
}

fn tls_error(error: &ConnectionError) -> Option<&rustls::Error> {
    match error {
        // It names no source.
        ConnectionError::MqttState(StateError::Deserialization(error)) => tls::said(error),
        error => tls::said(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_peer_breaks_a_connection() {
        let io = |kind: ErrorKind| ConnectionError::Io(kind.into());
        let state = ConnectionError::MqttState;
        for (error, broken) in [
            (state(StateError::AwaitPingResp), false),
            (io(ErrorKind::TimedOut), false),
            (state(StateError::Io(ErrorKind::TimedOut.into())), false),
            (io(ErrorKind::NetworkUnreachable), false),
            (state(StateError::ConnectionAborted), true),
            (
                state(StateError::Io(ErrorKind::ConnectionReset.into())),
                true,
            ),
        ] {
            let signal = lost(&error);
            assert_eq!(matches!(signal, Signal::Broken(_)), broken, "{signal:?}");
        }
    }
}
