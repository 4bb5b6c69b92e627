//! The connection that requests come in by, with acknowledgements by hand. The other place that names
//! rumqttc.

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Filter, Packet, PubAckReason, Publish, PublishProperties, RetainForwardRule,
    SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, Event, EventLoop};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config;
use crate::credentials::Broker;
use crate::mqtt::connection::{self, CredentialError};

/// What happened on the connection, in order.
#[derive(Debug)]
pub(super) enum Heard {
    Connected,
    /// To all topics, or not.
    Subscribed(bool),
    Request(Box<Asked>),
    /// The broker has the response, or says why not.
    Answered(Option<&'static str>),
    /// The last one.
    Lost(String),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) topic: String,
    pub(super) response_topic: Option<String>,
    publish: Publish,
}

pub(super) struct Wire {
    client: AsyncClient,
    heard: mpsc::Receiver<Heard>,
    poller: JoinHandle<()>,
}

/// The broker holds back the next request until this many are acknowledged.
const IN_HAND_MAX: u16 = 1;
/// A larger image is answered with words, up to twice its limit; what the broker shall not even
/// deliver comes behind that.
const ROOM_FACTOR: u64 = 2;
const OVERHEAD_BYTES: u64 = 128 * 1024;
/// What is echoed is an id, no document.
pub(super) const CORRELATION_MAX_BYTES: usize = 200;
const PACKET_MAX_BYTES: u64 = 268_435_455;

impl Asked {
    #[cfg(test)]
    pub(super) fn of(payload: &[u8], correlation: Option<&str>) -> Self {
        let mut publish = Publish::new("", QoS::AtLeastOnce, payload.to_vec(), None);
        publish.properties = correlation.map(|data| PublishProperties {
            correlation_data: Some(data.to_owned().into()),
            ..PublishProperties::default()
        });
        Self {
            topic: String::new(),
            response_topic: None,
            publish,
        }
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.publish.payload
    }

    pub(super) fn correlation(&self) -> Option<&[u8]> {
        self.publish
            .properties
            .as_ref()?
            .correlation_data
            .as_deref()
    }

    /// The broker sends this one again, because it did not hear that it was answered.
    pub(super) fn repeats(&self, last: &Self) -> bool {
        self.publish.dup
            && self.topic == last.topic
            && self.publish.payload == last.publish.payload
            && self.publish.properties == last.publish.properties
    }
}

impl Wire {
    pub(super) fn open(
        mqtt: &config::Mqtt,
        broker: &Broker,
        node: &str,
    ) -> Result<Self, CredentialError> {
        // No node has an underscore in its name.
        let mut options = connection::options(mqtt, broker, &format!("{node}_requests"))?;
        let packet_max = mqtt.request_max_bytes * ROOM_FACTOR + OVERHEAD_BYTES;
        options
            .set_clean_start(false)
            .set_session_expiry_interval(Some(mqtt.request_expiry_s))
            .set_max_packet_size(Some(packet_max.min(PACKET_MAX_BYTES) as u32))
            .set_receive_maximum(Some(IN_HAND_MAX))
            .set_manual_acks(true);
        let (client, eventloop) = AsyncClient::new(options, 8);
        let (sender, heard) = mpsc::channel(4);
        let poller = tokio::spawn(poll(eventloop, sender));
        Ok(Self {
            client,
            heard,
            poller,
        })
    }

    pub(super) async fn hear(&mut self) -> Heard {
        let heard = self.heard.recv().await;
        heard.unwrap_or_else(|| Heard::Lost("the connection task ended".to_owned()))
    }

    /// False when the client has no room.
    pub(super) fn subscribe(&self, topics: impl Iterator<Item = String>) -> bool {
        let filter = |topic| Filter {
            // A retained request would be done anew at every start.
            retain_forward_rule: RetainForwardRule::Never,
            ..Filter::new(topic, QoS::AtLeastOnce)
        };
        self.client.try_subscribe_many(topics.map(filter)).is_ok()
    }

    /// False when the client has no room.
    pub(super) fn respond(&self, topic: String, payload: Vec<u8>, asked: &Asked) -> bool {
        let properties = asked.publish.properties.as_ref();
        let correlation_data = properties
            .and_then(|asked| asked.correlation_data.clone())
            .filter(|data| data.len() <= CORRELATION_MAX_BYTES);
        let properties = PublishProperties {
            content_type: Some("application/json".to_owned()),
            correlation_data,
            ..PublishProperties::default()
        };
        let qos = QoS::AtLeastOnce;
        self.client
            .try_publish_with_properties(topic, qos, false, payload, properties)
            .is_ok()
    }

    pub(super) fn acknowledge(&self, asked: &Asked) {
        // Without room the connection is stuck, and the request comes again.
        if self.client.try_ack(&asked.publish).is_err() {
            tracing::debug!("no room to acknowledge a request");
        }
    }

    pub(super) async fn close(mut self) {
        connection::leave(&self.client, &mut self.poller).await;
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

/// Polls apart from the answers, so that pings go on while a disk is slow.
async fn poll(mut eventloop: EventLoop, sender: mpsc::Sender<Heard>) {
    loop {
        let heard = match eventloop.poll().await {
            Ok(Event::Incoming(packet)) => heard(packet),
            Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return,
            Ok(Event::Outgoing(_)) => None,
            Err(error) => Some(Heard::Lost(connection::words(&error))),
        };
        let Some(heard) = heard else { continue };
        let lost = matches!(heard, Heard::Lost(_));
        // QoS 0 knows no limit of what is in hand: what there is no room for is dropped.
        if let Heard::Request(asked) = &heard
            && asked.publish.qos == QoS::AtMostOnce
        {
            if sender.try_send(heard).is_err() {
                tracing::warn!("a request with QoS 0 was dropped, another is in hand; use QoS 1");
            }
            continue;
        }
        if sender.send(heard).await.is_err() || lost {
            return;
        }
    }
}

fn heard(packet: Packet) -> Option<Heard> {
    match packet {
        Packet::ConnAck(_) => Some(Heard::Connected),
        Packet::SubAck(ack) => {
            let granted =
                |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            Some(Heard::Subscribed(ack.return_codes.iter().all(granted)))
        }
        Packet::PubAck(ack) => Some(Heard::Answered(match ack.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
            PubAckReason::NotAuthorized => Some("not authorized (0x87)"),
            PubAckReason::QuotaExceeded => Some("quota exceeded (0x97)"),
            _ => Some("see the broker's log"),
        })),
        Packet::Publish(publish) => Some(Heard::Request(Box::new(Asked {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            response_topic: publish
                .properties
                .as_ref()
                .and_then(|properties| properties.response_topic.clone()),
            publish,
        }))),
        _ => None,
    }
}
