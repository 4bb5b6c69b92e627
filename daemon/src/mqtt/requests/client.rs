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
pub(super) enum RequestEvent {
    Connected,
    /// To all topics, or not.
    Subscribed(bool),
    Request(Box<Request>),
    /// The broker has the response, or says why not.
    ResponseAcked(Option<&'static str>),
    /// The broker has requests that came when there was no room for them: the connection is to be made
    /// anew.
    Reconnect,
    /// The last one.
    Lost(String),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) topic: String,
    pub(super) response_topic: Option<String>,
    /// The broker kept it and gives it to every new subscriber, whenever it was sent.
    pub(super) retained: bool,
    publish: Publish,
}

#[derive(Debug, Clone)]
enum Publish {
    Five(v5::mqttbytes::v5::Publish),
    Three(rumqttc::Publish),
}

pub(super) struct RequestConnection {
    client: Client,
    events: mpsc::Receiver<RequestEvent>,
    poller: JoinHandle<()>,
    /// Requests that came while another was in hand: MQTT 3.1.1 has no receive maximum.
    queued: VecDeque<Box<Request>>,
    queued_bytes: u64,
    queued_max_bytes: u64,
    /// There was no room for one; it was not acknowledged, so the broker has it still.
    has_overflowed: bool,
}

/// The broker holds back the next request until this many are acknowledged.
const RECEIVE_MAXIMUM: u16 = 1;
/// A larger image is answered with words, up to twice its limit; what the broker shall not even
/// deliver comes behind that.
const PACKET_FACTOR: u64 = 2;
const OVERHEAD_BYTES: u64 = 128 * 1024;
/// A longer one is not echoed: it is meant to be an id.
pub(super) const CORRELATION_MAX_BYTES: usize = 200;
const CLIENT_ROOM: usize = 8;

impl Request {
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

impl RequestConnection {
    pub(super) fn open(
        level: Version,
        mqtt: &config::Mqtt,
        broker: &Broker,
        node: &str,
    ) -> Result<Self, CredentialError> {
        // No node has an underscore in its name.
        let client_id = format!("{node}_requests");
        let packet_max = mqtt.request_max_bytes * PACKET_FACTOR + OVERHEAD_BYTES;
        let (client, eventloop) = match level {
            Version::Five => {
                let mut options = five::options(mqtt, broker, &client_id)?;
                options
                    .set_clean_start(false)
                    .set_session_expiry_interval(Some(mqtt.request_expiry_s))
                    .set_max_packet_size(Some(packet_max.min(PACKET_MAX_BYTES as u64) as u32))
                    .set_receive_maximum(Some(RECEIVE_MAXIMUM))
                    .set_manual_acks(true);
                let (client, eventloop) = v5::AsyncClient::new(options, CLIENT_ROOM);
                (Client::Five(client), Loop::Five(Box::new(eventloop)))
            }
            Version::Three => {
                let mut options = three::options(mqtt, broker, &client_id)?;
                // The broker is told no limit: a packet above one would come again for ever.
                options.set_clean_session(false).set_manual_acks(true);
                let (client, eventloop) =
                    three::client(options, CLIENT_ROOM, mqtt.connect_timeout_s);
                (Client::Three(client), Loop::Three(Box::new(eventloop)))
            }
        };
        let (sender, events) = mpsc::channel(4);
        let poller = tokio::spawn(poll(eventloop, sender));
        Ok(Self {
            client,
            events,
            poller,
            queued: VecDeque::new(),
            queued_bytes: 0,
            queued_max_bytes: packet_max,
            has_overflowed: false,
        })
    }

    pub(super) async fn next(&mut self) -> RequestEvent {
        if let Some(request) = self.queued.pop_front() {
            self.queued_bytes -= request.payload().len() as u64;
            return RequestEvent::Request(request);
        }
        if self.has_overflowed {
            return RequestEvent::Reconnect;
        }
        self.receive().await
    }

    /// As [`Self::next`], for what is no request: those wait.
    pub(super) async fn next_unless_request(&mut self) -> RequestEvent {
        loop {
            match self.receive().await {
                RequestEvent::Request(request) => self.queue(request),
                event => return event,
            }
        }
    }

    async fn receive(&mut self) -> RequestEvent {
        let event = self.events.recv().await;
        event.unwrap_or_else(|| RequestEvent::Lost("the connection task ended".to_owned()))
    }

    fn queue(&mut self, request: Box<Request>) {
        let bytes = self.queued_bytes + request.payload().len() as u64;
        // In the order in which they came, so none after the first that is left.
        if self.has_overflowed || bytes > self.queued_max_bytes {
            if request.is_at_most_once() {
                return log_dropped();
            }
            self.has_overflowed = true;
            return;
        }
        self.queued_bytes = bytes;
        self.queued.push_back(request);
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
    pub(super) fn respond(&self, topic: String, payload: Vec<u8>, request: &Request) -> bool {
        match &self.client {
            Client::Five(client) => {
                let correlation_data = request
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

    pub(super) fn acknowledge(&self, request: &Request) {
        let taken = match (&self.client, &request.publish) {
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

impl Drop for RequestConnection {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

fn log_dropped() {
    tracing::warn!("a request with QoS 0 was dropped, another is in hand; use QoS 1");
}

/// Polls apart from the answers, so that pings go on while a disk is slow.
async fn poll(mut eventloop: Loop, sender: mpsc::Sender<RequestEvent>) {
    loop {
        let event = match &mut eventloop {
            Loop::Five(eventloop) => match eventloop.poll().await {
                Ok(v5::Event::Incoming(packet)) => event_five(packet),
                Ok(v5::Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return,
                Ok(v5::Event::Outgoing(_)) => None,
                Err(error) => Some(RequestEvent::Lost(five::lost(&error).words())),
            },
            Loop::Three(eventloop) => match three::event(eventloop).await {
                Ok(rumqttc::Event::Incoming(packet)) => event_three(packet),
                Ok(rumqttc::Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return,
                Ok(rumqttc::Event::Outgoing(_)) => None,
                Err(error) => Some(RequestEvent::Lost(three::lost(&error).words())),
            },
        };
        let Some(event) = event else { continue };
        let lost = matches!(event, RequestEvent::Lost(_));
        // QoS 0 knows no limit of what is in hand: what there is no room for is dropped.
        if let RequestEvent::Request(request) = &event
            && request.is_at_most_once()
        {
            if sender.try_send(event).is_err() {
                log_dropped();
            }
            continue;
        }
        if sender.send(event).await.is_err() || lost {
            return;
        }
    }
}

fn event_five(packet: Packet) -> Option<RequestEvent> {
    match packet {
        Packet::ConnAck(_) => Some(RequestEvent::Connected),
        Packet::SubAck(ack) => {
            let granted =
                |code: &SubscribeReasonCode| matches!(code, SubscribeReasonCode::Success(_));
            Some(RequestEvent::Subscribed(
                ack.return_codes.iter().all(granted),
            ))
        }
        Packet::PubAck(ack) => Some(RequestEvent::ResponseAcked(match ack.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => None,
            PubAckReason::NotAuthorized => Some("not authorized (0x87)"),
            PubAckReason::QuotaExceeded => Some("quota exceeded (0x97)"),
            _ => Some("see the broker's log"),
        })),
        Packet::Publish(publish) => Some(RequestEvent::Request(Box::new(Request::five(publish)))),
        _ => None,
    }
}

fn event_three(packet: rumqttc::Packet) -> Option<RequestEvent> {
    match packet {
        rumqttc::Packet::ConnAck(_) => Some(RequestEvent::Connected),
        rumqttc::Packet::SubAck(ack) => {
            let refused = |code: &rumqttc::SubscribeReasonCode| {
                *code == rumqttc::SubscribeReasonCode::Failure
            };
            Some(RequestEvent::Subscribed(
                !ack.return_codes.iter().any(refused),
            ))
        }
        rumqttc::Packet::PubAck(_) => Some(RequestEvent::ResponseAcked(None)),
        rumqttc::Packet::Publish(publish) => {
            Some(RequestEvent::Request(Box::new(Request::three(publish))))
        }
        _ => None,
    }
}
