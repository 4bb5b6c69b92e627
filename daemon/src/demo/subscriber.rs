//! A client like any other: subscribes to one filter and passes messages on as they come.

use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::sync::mpsc;

use super::packet::PACKET_MAX_BYTES;

/// Messages that wait to be printed.
const QUEUE_MAX_MESSAGES: usize = 64;

/// What a subscriber learns.
#[derive(Debug)]
pub(super) enum Received {
    /// The subscription stands.
    Subscribed,
    Message {
        topic: String,
        payload: Vec<u8>,
        retained: bool,
    },
}

impl Received {
    /// The end of an image, not the state of the node.
    pub(super) fn ends_an_image(&self) -> bool {
        matches!(self, Self::Message { topic, .. }
            if topic.contains("/result/") || topic.ends_with("/event"))
    }
}

/// Everything below `filter`, after [`Received::Subscribed`]. Ends with the connection.
pub(super) fn subscribe(broker: SocketAddr, filter: String) -> mpsc::Receiver<Received> {
    let mut options = MqttOptions::new("scanside-demo", broker.ip().to_string(), broker.port());
    // rumqttc refuses what is above 10 KiB unless it is told otherwise.
    options
        .set_max_packet_size(Some(PACKET_MAX_BYTES))
        .set_keep_alive(Duration::from_secs(30));
    let (client, eventloop) = AsyncClient::new(options, 4);
    let (sender, messages) = mpsc::channel(QUEUE_MAX_MESSAGES);
    tokio::spawn(listen(client, eventloop, filter, sender));
    messages
}

async fn listen(
    client: AsyncClient,
    mut eventloop: EventLoop,
    filter: String,
    messages: mpsc::Sender<Received>,
) {
    if let Err(error) = client.try_subscribe(filter, QoS::AtLeastOnce) {
        tracing::error!(%error, "the demo's subscriber cannot subscribe");
        return;
    }
    loop {
        let received = match eventloop.poll().await {
            Ok(Event::Incoming(Packet::SubAck(_))) => Received::Subscribed,
            Ok(Event::Incoming(Packet::Publish(publish))) => Received::Message {
                topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                payload: publish.payload.to_vec(),
                retained: publish.retain,
            },
            Ok(_) => continue,
            Err(error) => {
                tracing::error!(%error, "the demo's subscriber lost its connection");
                return;
            }
        };
        if messages.send(received).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_messages_end_no_image() {
        for (topic, ends) in [
            ("scanside/v1/demo/result/inbox", true),
            ("scanside/v1/demo/event", true),
            ("scanside/v1/demo/health", false),
            ("scanside/v1/demo/state", false),
            ("scanside/v1/demo/availability", false),
        ] {
            let received = Received::Message {
                topic: topic.to_owned(),
                payload: Vec::new(),
                retained: false,
            };
            assert_eq!(received.ends_an_image(), ends, "{topic}");
        }
        assert!(!Received::Subscribed.ends_an_image());
    }
}
