//! MQTT 3.1.1 by rumqttc. Its PUBACK carries no reason and its CONNACK no limits: what a broker does not
//! like it closes the connection over, or drops without a word.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, LastWill, MqttOptions,
    Outgoing, Packet, QoS, StateError, SubscribeReasonCode, TlsConfiguration, Transport,
};

use super::{
    CredentialError, Lost, PACKET_ID_MAX, PACKET_MAX_BYTES, PublisherId, Signal, Step, is_silence,
    login,
};
use crate::config;
use crate::mqtt::window::PublishAck;
use crate::tls;
use crate::tls::credentials::Broker;

/// How long rumqttc may take to write once the connection stands: the ack timeout finds a broker that hangs, and a
/// slow link may take long over a large message.
const WRITE_TIMEOUT_S: u64 = 86_400;

/// How to reach the broker, and as whom.
pub(in crate::mqtt) fn options(
    mqtt: &config::Mqtt,
    broker: &Broker,
    client_id: &str,
) -> Result<MqttOptions, CredentialError> {
    let mut options = MqttOptions::new(client_id, mqtt.host.clone(), mqtt.port);
    options
        .set_keep_alive(Duration::from_secs(mqtt.keep_alive_s))
        .set_max_packet_size(PACKET_MAX_BYTES, PACKET_MAX_BYTES)
        .set_inflight(PACKET_ID_MAX);
    if let Some(tls) = &broker.tls {
        let tls = TlsConfiguration::Rustls(Arc::clone(tls));
        options.set_transport(Transport::Tls(tls));
    }
    if let Some((user, password)) = login(broker)? {
        options.set_credentials(user, password);
    }
    Ok(options)
}

pub(super) fn publisher(
    mqtt: &config::Mqtt,
    broker: &Broker,
    publisher: PublisherId,
) -> Result<MqttOptions, CredentialError> {
    let mut options = options(mqtt, broker, &publisher.client_id)?;
    let (topic, payload) = (publisher.will_topic, publisher.will_payload);
    let will = LastWill::new(topic, payload, QoS::AtLeastOnce, true);
    options.set_clean_session(true).set_last_will(will);
    Ok(options)
}

pub(in crate::mqtt) fn client(
    options: MqttOptions,
    room: usize,
    connect_timeout_s: u64,
) -> (AsyncClient, EventLoop) {
    let (client, mut eventloop) = AsyncClient::new(options, room);
    eventloop
        .network_options
        .set_connection_timeout(connect_timeout_s);
    (client, eventloop)
}

/// As [`EventLoop::poll`].
pub(in crate::mqtt) async fn event(eventloop: &mut EventLoop) -> Result<Event, ConnectionError> {
    let event = eventloop.poll().await?;
    if matches!(event, Event::Incoming(Packet::ConnAck(_))) {
        eventloop
            .network_options
            .set_connection_timeout(WRITE_TIMEOUT_S);
    }
    Ok(event)
}

pub(super) async fn step(eventloop: &mut EventLoop) -> Step {
    match event(eventloop).await {
        Ok(Event::Outgoing(Outgoing::Disconnect)) => Step::Left,
        Ok(event) => Step::Signals(signal(event).into_iter().collect()),
        Err(error) => {
            let rest = std::mem::take(&mut eventloop.state.events);
            let mut signals: Vec<_> = rest.into_iter().filter_map(signal).collect();
            signals.push(Signal::Lost(lost(&error)));
            Step::Ended(signals)
        }
    }
}

fn signal(event: Event) -> Option<Signal> {
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Some(Signal::Connected {
            packet_max_bytes: PACKET_MAX_BYTES,
            receive_max: usize::MAX,
        }),
        // QoS 0 has packet id 0.
        Event::Outgoing(Outgoing::Publish(packet_id)) if packet_id != 0 => {
            Some(Signal::Published(packet_id))
        }
        Event::Incoming(Packet::PubAck(ack)) => Some(Signal::Acked(ack.pkid, PublishAck::Accepted)),
        Event::Incoming(Packet::SubAck(ack)) => {
            let granted =
                |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            Some(Signal::Subscribed(ack.return_codes.iter().all(granted)))
        }
        Event::Incoming(Packet::Publish(publish)) => Some(Signal::Received(publish.retain)),
        _ => None,
    }
}

pub(in crate::mqtt) fn lost(error: &ConnectionError) -> Lost {
    if let Some(error) = tls::rustls_error(error) {
        return Lost::Distrusted(tls::words(error, "the broker", "mqtt"));
    }
    match error {
        ConnectionError::ConnectionRefused(code) => refused(*code),
        ConnectionError::NetworkTimeout => Lost::Unreachable(
            "no answer to CONNECT in time; the broker hangs or does not speak MQTT".to_owned(),
        ),
        ConnectionError::FlushTimeout
        | ConnectionError::MqttState(StateError::AwaitPingResp | StateError::CollisionTimeout) => {
            Lost::Unreachable(error.to_string())
        }
        ConnectionError::Io(io) | ConnectionError::MqttState(StateError::Io(io))
            if is_silence(io.kind()) =>
        {
            Lost::Unreachable(error.to_string())
        }
        error => Lost::Broken(error.to_string()),
    }
}

/// CONNACK with a code.
fn refused(code: ConnectReturnCode) -> Lost {
    match code {
        ConnectReturnCode::RefusedProtocolVersion => {
            Lost::Version("the broker does not speak MQTT 3.1.1".to_owned())
        }
        ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
            Lost::Distrusted(format!(
                "the broker refuses this user ({code:?}); check username and password file"
            ))
        }
        ConnectReturnCode::BadClientId => Lost::Unsupported(
            "the broker does not take `node` as a client identifier; allow it there, or choose another \
             `node`"
                .to_owned(),
        ),
        ConnectReturnCode::ServiceUnavailable => {
            Lost::Unreachable("the broker is not available yet; it is tried again".to_owned())
        }
        ConnectReturnCode::Success => Lost::Broken("the broker ended the connection".to_owned()),
    }
}
