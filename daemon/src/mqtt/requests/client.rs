//! The connection that requests come in by, with acknowledgements by hand. With `connection` the
//! only place that names rumqttc.

use std::collections::VecDeque;

use rumqttc::v5;
use rumqttc::v5::mqttbytes::v5::{
    Filter, Packet, PubAckReason, PublishProperties, RetainForwardRule, SubscribeReasonCode,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::{self, Version};
use crate::mqtt::connection::{Client, CredentialError, PACKET_MAX_BYTES, five, three};
use crate::tls::credentials::Broker;

/// What happened on the connection, in order.
#[derive(Debug)]
pub(super) enum Heard {
    Connected,
    /// To all topics, or not.
    Subscribed(bool),
    Request(Box<Asked>),
    /// The broker has the response, or says why not.
    Answered(Option<&'static str>),
    /// The broker has requests that came when there was no room for them: the connection is to be made
    /// anew.
    Again,
    /// The last one.
    Lost(String),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) topic: String,
    pub(super) response_topic: Option<String>,
    /// It was asked at some time, and the broker gives it to whoever comes.
    pub(super) retained: bool,
    publish: Publish,
}

#[derive(Debug, Clone)]
enum Publish {
    Five(v5::mqttbytes::v5::Publish),
    Three(rumqttc::Publish),
}

pub(super) struct Wire {
    client: Client,
    heard: mpsc::Receiver<Heard>,
    poller: JoinHandle<()>,
    /// Requests that came while another was in hand: MQTT 3.1.1 has no receive maximum.
    later: VecDeque<Box<Asked>>,
    later_bytes: u64,
    later_max_bytes: u64,
    /// There was no room for one; it was not acknowledged, so the broker has it still.
    left_one: bool,
}

/// The broker holds back the next request until this many are acknowledged.
const IN_HAND_MAX: u16 = 1;
/// A larger image is answered with words, up to twice its limit; what the broker shall not even
/// deliver comes behind that.
const ROOM_FACTOR: u64 = 2;
const OVERHEAD_BYTES: u64 = 128 * 1024;
/// What is echoed is an id, no document.
pub(super) const CORRELATION_MAX_BYTES: usize = 200;
const CLIENT_ROOM: usize = 8;

impl Asked {
    #[cfg(test)]
    pub(super) fn of(payload: &[u8], correlation: Option<&str>) -> Self {
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        let mut publish = v5::mqttbytes::v5::Publish::new("", qos, payload.to_vec(), None);
        publish.properties = correlation.map(|data| PublishProperties {
            correlation_data: Some(data.to_owned().into()),
            ..PublishProperties::default()
        });
        Self {
            topic: String::new(),
            response_topic: None,
            retained: false,
            publish: Publish::Five(publish),
        }
    }

    fn five(publish: v5::mqttbytes::v5::Publish) -> Self {
        let properties = publish.properties.as_ref();
        Self {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            response_topic: properties.and_then(|properties| properties.response_topic.clone()),
            // The subscription asks for none.
            retained: false,
            publish: Publish::Five(publish),
        }
    }

    fn three(publish: rumqttc::Publish) -> Self {
        Self {
            topic: publish.topic.clone(),
            response_topic: None,
            retained: publish.retain,
            publish: Publish::Three(publish),
        }
    }

    pub(super) fn payload(&self) -> &[u8] {
        match &self.publish {
            Publish::Five(publish) => &publish.payload,
            Publish::Three(publish) => &publish.payload,
        }
    }

    pub(super) fn correlation(&self) -> Option<&[u8]> {
        self.properties()?.correlation_data.as_deref()
    }

    fn properties(&self) -> Option<&PublishProperties> {
        match &self.publish {
            Publish::Five(publish) => publish.properties.as_ref(),
            Publish::Three(_) => None,
        }
    }

    fn is_at_most_once(&self) -> bool {
        match &self.publish {
            Publish::Five(publish) => publish.qos == v5::mqttbytes::QoS::AtMostOnce,
            Publish::Three(publish) => publish.qos == rumqttc::QoS::AtMostOnce,
        }
    }

    /// The broker sends this one again, because it did not hear that it was answered.
    pub(super) fn repeats(&self, last: &Self) -> bool {
        let dup = match &self.publish {
            Publish::Five(publish) => publish.dup,
            Publish::Three(publish) => publish.dup,
        };
        dup && self.topic == last.topic
            && self.payload() == last.payload()
            && self.properties() == last.properties()
    }
}

/// The client's side that has to be polled.
enum Loop {
    Five(Box<v5::EventLoop>),
    Three(Box<rumqttc::EventLoop>),
}

impl Wire {
    pub(super) fn open(
        level: Version,
        mqtt: &config::Mqtt,
        (broker, node): (&Broker, &str),
    ) -> Result<Self, CredentialError> {
        // No node has an underscore in its name.
        let name = format!("{node}_requests");
        let packet_max = mqtt.request_max_bytes * ROOM_FACTOR + OVERHEAD_BYTES;
        let (client, eventloop) = match level {
            Version::Five => {
                let mut options = five::options(mqtt, (broker, &name))?;
                options
                    .set_clean_start(false)
                    .set_session_expiry_interval(Some(mqtt.request_expiry_s))
                    .set_max_packet_size(Some(packet_max.min(PACKET_MAX_BYTES as u64) as u32))
                    .set_receive_maximum(Some(IN_HAND_MAX))
                    .set_manual_acks(true);
                let (client, eventloop) = v5::AsyncClient::new(options, CLIENT_ROOM);
                (Client::Five(client), Loop::Five(Box::new(eventloop)))
            }
            Version::Three => {
                let mut options = three::options(mqtt, (broker, &name))?;
                // The broker is told no limit: a packet above one would come again for ever.
                options.set_clean_session(false).set_manual_acks(true);
                let (client, eventloop) =
                    three::client(options, CLIENT_ROOM, mqtt.connect_timeout_s);
                (Client::Three(client), Loop::Three(Box::new(eventloop)))
            }
        };
        let (sender, heard) = mpsc::channel(4);
        let poller = tokio::spawn(poll(eventloop, sender));
        Ok(Self {
            client,
            heard,
            poller,
            later: VecDeque::new(),
            later_bytes: 0,
            later_max_bytes: packet_max,
            left_one: false,
        })
    }

    pub(super) async fn hear(&mut self) -> Heard {
        if let Some(asked) = self.later.pop_front() {
            self.later_bytes -= asked.payload().len() as u64;
            return Heard::Request(asked);
        }
        if self.left_one {
            return Heard::Again;
        }
        self.receive().await
    }

    /// As [`Self::hear`], for what is no request: those wait.
    pub(super) async fn hear_beside(&mut self) -> Heard {
        loop {
            match self.receive().await {
                Heard::Request(asked) => self.keep(asked),
                heard => return heard,
            }
        }
    }

    async fn receive(&mut self) -> Heard {
        let heard = self.heard.recv().await;
        heard.unwrap_or_else(|| Heard::Lost("the connection task ended".to_owned()))
    }

    fn keep(&mut self, asked: Box<Asked>) {
        let bytes = self.later_bytes + asked.payload().len() as u64;
        // In the order in which they came, so none after the first that is left.
        if self.left_one || bytes > self.later_max_bytes {
            if asked.is_at_most_once() {
                return dropped();
            }
            self.left_one = true;
            return;
        }
        self.later_bytes = bytes;
        self.later.push_back(asked);
    }

    /// False when the client has no room.
    pub(super) fn subscribe(&self, topics: impl Iterator<Item = String>) -> bool {
        match &self.client {
            Client::Five(client) => {
                let filter = |topic| Filter {
                    // A retained request would be done anew at every start.
                    retain_forward_rule: RetainForwardRule::Never,
                    ..Filter::new(topic, v5::mqttbytes::QoS::AtLeastOnce)
                };
                client.try_subscribe_many(topics.map(filter)).is_ok()
            }
            Client::Three(client) => {
                let filter =
                    |topic| rumqttc::SubscribeFilter::new(topic, rumqttc::QoS::AtLeastOnce);
                client.try_subscribe_many(topics.map(filter)).is_ok()
            }
        }
    }

    /// False when the client has no room.
    pub(super) fn respond(&self, topic: String, payload: Vec<u8>, asked: &Asked) -> bool {
        match &self.client {
            Client::Five(client) => {
                let correlation_data = asked
                    .properties()
                    .and_then(|properties| properties.correlation_data.clone())
                    .filter(|data| data.len() <= CORRELATION_MAX_BYTES);
                let properties = PublishProperties {
                    content_type: Some("application/json".to_owned()),
                    correlation_data,
                    ..PublishProperties::default()
                };
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                client
                    .try_publish_with_properties(topic, qos, false, payload, properties)
                    .is_ok()
            }
            Client::Three(client) => {
                let qos = rumqttc::QoS::AtLeastOnce;
                client.try_publish(topic, qos, false, payload).is_ok()
            }
        }
    }

    pub(super) fn acknowledge(&self, asked: &Asked) {
        let taken = match (&self.client, &asked.publish) {
            (Client::Five(client), Publish::Five(publish)) => client.try_ack(publish).is_ok(),
            (Client::Three(client), Publish::Three(publish)) => client.try_ack(publish).is_ok(),
            // Of another connection: it comes again on this one.
            _ => true,
        };
        // Without room the connection is stuck, and the request comes again.
        if !taken {
            tracing::debug!("no room to acknowledge a request");
        }
    }

    pub(super) async fn close(mut self) {
        self.client.leave(&mut self.poller).await;
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

fn dropped() {
    tracing::warn!("a request with QoS 0 was dropped, another is in hand; use QoS 1");
}

/// Polls apart from the answers, so that pings go on while a disk is slow.
async fn poll(mut eventloop: Loop, sender: mpsc::Sender<Heard>) {
    loop {
        let heard = match &mut eventloop {
            Loop::Five(eventloop) => match eventloop.poll().await {
                Ok(v5::Event::Incoming(packet)) => heard_five(packet),
                Ok(v5::Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return,
                Ok(v5::Event::Outgoing(_)) => None,
                Err(error) => Some(Heard::Lost(five::lost(&error).words())),
            },
            Loop::Three(eventloop) => match three::event(eventloop).await {
                Ok(rumqttc::Event::Incoming(packet)) => heard_three(packet),
                Ok(rumqttc::Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return,
                Ok(rumqttc::Event::Outgoing(_)) => None,
                Err(error) => Some(Heard::Lost(three::lost(&error).words())),
            },
        };
        let Some(heard) = heard else { continue };
        let lost = matches!(heard, Heard::Lost(_));
        // QoS 0 knows no limit of what is in hand: what there is no room for is dropped.
        if let Heard::Request(asked) = &heard
            && asked.is_at_most_once()
        {
            if sender.try_send(heard).is_err() {
                dropped();
            }
            continue;
        }
        if sender.send(heard).await.is_err() || lost {
            return;
        }
    }
}

fn heard_five(packet: Packet) -> Option<Heard> {
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
        Packet::Publish(publish) => Some(Heard::Request(Box::new(Asked::five(publish)))),
        _ => None,
    }
}

fn heard_three(packet: rumqttc::Packet) -> Option<Heard> {
    match packet {
        rumqttc::Packet::ConnAck(_) => Some(Heard::Connected),
        rumqttc::Packet::SubAck(ack) => {
            let refused = |code: &rumqttc::SubscribeReasonCode| {
                *code == rumqttc::SubscribeReasonCode::Failure
            };
            Some(Heard::Subscribed(!ack.return_codes.iter().any(refused)))
        }
        rumqttc::Packet::PubAck(_) => Some(Heard::Answered(None)),
        rumqttc::Packet::Publish(publish) => Some(Heard::Request(Box::new(Asked::three(publish)))),
        _ => None,
    }
}
