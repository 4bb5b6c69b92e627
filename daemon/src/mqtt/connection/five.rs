//! MQTT 5 by rumqttc: options, events, and what a broker's reason codes mean for an operator.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, DisconnectReasonCode, LastWill, Packet, PubAckReason,
    PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions, StateError};
use rumqttc::{Outgoing, TlsConfiguration, Transport};

use super::{
    CredentialError, Kind, Lost, PACKET_ID_MAX, PACKET_MAX_BYTES, PublisherId, REPLAYED, Signal,
    Step, is_silence, login,
};
use crate::config;
use crate::mqtt::window::PublishAck;
use crate::tls;
use crate::tls::credentials::Broker;

const NO_RETAIN: &str = "the broker takes no retained messages, which `availability`, `state`, `info` and the will \
                         are; turn them on there (mosquitto: `retain_available true`; EMQX: \
                         `mqtt.retain_available`), or allow them to this user";
const NO_QOS_1: &str = "the broker takes no messages with QoS 1, without which results would be lost; allow QoS 1 \
                        there (mosquitto: `max_qos 2`; EMQX: `mqtt.max_qos_allowed`)";

/// How to reach the broker, and as whom.
pub(in crate::mqtt) fn options(
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
    let will = LastWill::new(topic, payload, QoS::AtLeastOnce, true, None);
    options.set_clean_start(true).set_last_will(will);
    options.set_outgoing_inflight_upper_limit(PACKET_ID_MAX);
    Ok(options)
}

pub(super) fn publish(client: &AsyncClient, topic: String, payload: Vec<u8>, kind: Kind) -> bool {
    let (qos, retain) = (QoS::AtLeastOnce, kind == Kind::Retained);
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

pub(super) async fn step(eventloop: &mut EventLoop) -> Step {
    match eventloop.poll().await {
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
        Event::Incoming(Packet::ConnAck(ack)) => Some(connected(&ack)),
        // QoS 0 has packet id 0.
        Event::Outgoing(Outgoing::Publish(packet_id)) if packet_id != 0 => {
            Some(Signal::Published(packet_id))
        }
        Event::Incoming(Packet::PubAck(ack)) => {
            Some(Signal::Acked(ack.pkid, publish_ack(ack.reason)))
        }
        Event::Incoming(Packet::SubAck(ack)) => {
            let granted =
                |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            Some(Signal::Subscribed(ack.return_codes.iter().all(granted)))
        }
        Event::Incoming(Packet::Publish(publish)) => Some(Signal::Received(publish.retain)),
        _ => None,
    }
}

/// A broker may say here what it cannot do, instead of refusing the will.
fn connected(ack: &ConnAck) -> Signal {
    let Some(properties) = &ack.properties else {
        return Signal::Connected {
            packet_max_bytes: PACKET_MAX_BYTES,
            receive_max: usize::MAX,
        };
    };
    if properties.max_qos == Some(0) {
        return Signal::Lost(Lost::Unsupported(NO_QOS_1.to_owned()));
    }
    if properties.retain_available == Some(0) {
        return Signal::Lost(Lost::Unsupported(NO_RETAIN.to_owned()));
    }
    let packet_max = properties.max_packet_size;
    Signal::Connected {
        packet_max_bytes: packet_max.map_or(PACKET_MAX_BYTES, |max| max as usize),
        receive_max: properties.receive_max.map_or(usize::MAX, usize::from),
    }
}

fn publish_ack(reason: PubAckReason) -> PublishAck {
    match reason {
        PubAckReason::Success => PublishAck::Accepted,
        PubAckReason::NoMatchingSubscribers => PublishAck::NoSubscribers,
        PubAckReason::TopicNameInvalid => PublishAck::Invalid("topic name invalid (0x90)"),
        PubAckReason::PayloadFormatInvalid => PublishAck::Invalid("payload format invalid (0x99)"),
        PubAckReason::UnspecifiedError => PublishAck::Refused("unspecified error (0x80)"),
        PubAckReason::ImplementationSpecificError => {
            PublishAck::Refused("implementation specific error (0x83)")
        }
        PubAckReason::NotAuthorized => PublishAck::Refused("not authorized (0x87)"),
        PubAckReason::PacketIdentifierInUse => {
            PublishAck::Refused("packet identifier in use (0x91)")
        }
        PubAckReason::QuotaExceeded => PublishAck::Refused("quota exceeded (0x97)"),
    }
}

pub(in crate::mqtt) fn lost(error: &ConnectionError) -> Lost {
    if let Some(error) = tls_error(error) {
        return Lost::Distrusted(tls::words(error, "the broker", "mqtt"));
    }
    match error {
        ConnectionError::ConnectionRefused(code) => refused(*code),
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code,
            reason_string,
        }) => disconnected(*reason_code, reason_string.as_deref()),
        ConnectionError::Timeout(_) => Lost::Unreachable(
            "no answer to CONNECT in time; the broker hangs or does not speak MQTT 5".to_owned(),
        ),
        ConnectionError::MqttState(StateError::AwaitPingResp | StateError::CollisionTimeout) => {
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

/// CONNACK with a reason.
fn refused(code: ConnectReturnCode) -> Lost {
    use ConnectReturnCode as Code;
    let unsupported = |words: &str| Lost::Unsupported(words.to_owned());
    let later = |words: &str| Lost::Unreachable(format!("{words}; it is tried again"));
    match code {
        Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion => {
            Lost::Version("the broker does not speak MQTT 5".to_owned())
        }
        Code::BadUserNamePassword | Code::NotAuthorized => Lost::Distrusted(format!(
            "the broker refuses this user ({code:?}); check username and password file"
        )),
        Code::Banned => Lost::Distrusted(
            "the broker has banned this client (0x8A); lift the ban there, by address, user or client \
             identifier"
                .to_owned(),
        ),
        Code::BadAuthenticationMethod => Lost::Distrusted(
            "the broker wants enhanced authentication (0x8C), which scansided does not do; let this user in \
             by password or certificate"
                .to_owned(),
        ),
        Code::RetainNotSupported => unsupported(NO_RETAIN),
        Code::QoSNotSupported => unsupported(NO_QOS_1),
        Code::BadClientId | Code::ClientIdentifierNotValid => unsupported(
            "the broker does not take `node` as a client identifier (0x85); allow it there \
             (mosquitto: `clientid_prefixes`), or choose another `node`",
        ),
        Code::PacketTooLarge => unsupported(
            "the broker's packet limit does not even let CONNECT through (0x95); raise it there \
             (mosquitto: `max_packet_size`)",
        ),
        Code::TopicNameInvalid => unsupported(
            "the broker refuses the will's topic (0x90); allow this user to write below \
             `<base>/v1/<node>/`, or choose another `mqtt.base`",
        ),
        Code::UseAnotherServer | Code::ServerMoved => {
            unsupported("the broker says that another one is to be used; put that one's name into `mqtt.host`")
        }
        Code::QuotaExceeded => later(
            "the broker has no room for another client, or for this one's messages (quota exceeded, 0x97); \
             raise its quota",
        ),
        Code::ConnectionRateExceeded => {
            later("the broker takes no more connections just now (0x9F)")
        }
        Code::ServerBusy | Code::ServerUnavailable | Code::ServiceUnavailable => {
            later("the broker is busy or not yet available")
        }
        code => Lost::Broken(format!(
            "the broker refuses the connection ({code:?}); its log says more"
        )),
    }
}

/// DISCONNECT from the broker.
fn disconnected(reason: DisconnectReasonCode, said: Option<&str>) -> Lost {
    use DisconnectReasonCode as Reason;
    let said = said.map_or(String::new(), |said| format!(" ({said})"));
    match reason {
        Reason::SessionTakenOver => Lost::TakenOver(
            "another client came to the broker under this one's name (session taken over, 0x8E)"
                .to_owned(),
        ),
        Reason::RetainNotSupported => Lost::Unsupported(NO_RETAIN.to_owned()),
        Reason::QoSNotSupported => Lost::Unsupported(NO_QOS_1.to_owned()),
        Reason::UseAnotherServer | Reason::ServerMoved => Lost::Unreachable(format!(
            "the broker says that another one is to be used{said}; put that one's name into `mqtt.host`"
        )),
        Reason::ServerBusy
        | Reason::ServerShuttingDown
        | Reason::KeepAliveTimeout
        | Reason::AdministrativeAction
        | Reason::ConnectionRateExceeded
        | Reason::MaximumConnectTime => {
            Lost::Unreachable(format!("the broker ended the connection: {reason:?}{said}"))
        }
        Reason::PacketTooLarge => Lost::Broken(format!(
            "the broker ended the connection over a message above its packet limit (0x95){said}; raise it \
             there, or lower `mqtt.inline_max_bytes`"
        )),
        Reason::QuotaExceeded | Reason::MessageRateTooHigh => Lost::Broken(format!(
            "the broker ended the connection over too many messages: {reason:?}{said}; raise its quota, or \
             lower `mqtt.window_max_messages`"
        )),
        Reason::NotAuthorized => Lost::Broken(format!(
            "the broker ended the connection over what this user may not do (0x87){said}; allow it to write \
             below `<base>/v1/<node>/`"
        )),
        reason => Lost::Broken(format!("the broker ended the connection: {reason:?}{said}")),
    }
}

fn tls_error(error: &ConnectionError) -> Option<&rustls::Error> {
    match error {
        // It names no source.
        ConnectionError::MqttState(StateError::Deserialization(error)) => tls::rustls_error(error),
        error => tls::rustls_error(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

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
            let lost = lost(&error);
            assert_eq!(matches!(lost, Lost::Broken(_)), broken, "{lost:?}");
        }
    }

    #[test]
    fn a_refusal_names_what_to_change() {
        for (code, remedy) in [
            (ConnectReturnCode::RetainNotSupported, "retain_available"),
            (ConnectReturnCode::QoSNotSupported, "max_qos"),
            (ConnectReturnCode::ClientIdentifierNotValid, "`node`"),
            (ConnectReturnCode::PacketTooLarge, "max_packet_size"),
            (ConnectReturnCode::ServerMoved, "`mqtt.host`"),
        ] {
            let lost = refused(code);
            assert!(matches!(lost, Lost::Unsupported(_)), "{lost:?}");
            let words = lost.words();
            assert!(words.contains(remedy), "{words}");
        }
        let banned = refused(ConnectReturnCode::Banned);
        assert!(matches!(banned, Lost::Distrusted(_)), "{banned:?}");
        let busy = refused(ConnectReturnCode::ServerBusy);
        assert!(matches!(busy, Lost::Unreachable(_)), "{busy:?}");
    }

    #[test]
    fn a_broker_that_shuts_down_blames_no_message() {
        let large = disconnected(DisconnectReasonCode::PacketTooLarge, None);
        assert!(matches!(large, Lost::Broken(_)), "{large:?}");
        let down = disconnected(DisconnectReasonCode::ServerShuttingDown, Some("bye"));
        assert!(matches!(&down, Lost::Unreachable(words) if words.contains("bye")));
        let taken_over = disconnected(DisconnectReasonCode::SessionTakenOver, None);
        assert!(matches!(taken_over, Lost::TakenOver(_)), "{taken_over:?}");
    }
}
