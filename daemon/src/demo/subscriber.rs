//! A client like any other: subscribes to one filter and passes payloads on as they come.

use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::sync::mpsc;

use super::packet::PACKET_MAX_BYTES;

/// Messages that wait to be printed.
const QUEUE_MAX_MESSAGES: usize = 64;

/// Payloads of everything below `filter`; the first item is empty and says that the subscription
/// stands. Ends with the connection.
pub(super) fn subscribe(broker: SocketAddr, filter: String) -> mpsc::Receiver<Vec<u8>> {
    let mut options = MqttOptions::new("scanside-demo", broker.ip().to_string(), broker.port());
    // rumqttc refuses what is above 10 KiB unless it is told otherwise.
    options.set_max_packet_size(Some(PACKET_MAX_BYTES)).set_keep_alive(Duration::from_secs(30));
    let (client, eventloop) = AsyncClient::new(options, 4);
    let (sender, payloads) = mpsc::channel(QUEUE_MAX_MESSAGES);
    tokio::spawn(listen(client, eventloop, filter, sender));
    payloads
}

async fn listen(
    client: AsyncClient,
    mut eventloop: EventLoop,
    filter: String,
    payloads: mpsc::Sender<Vec<u8>>,
) {
    if let Err(error) = client.try_subscribe(filter, QoS::AtLeastOnce) {
        tracing::error!(%error, "the demo's subscriber cannot subscribe");
        return;
    }
    loop {
        let payload = match eventloop.poll().await {
            Ok(Event::Incoming(Packet::SubAck(_))) => Vec::new(),
            Ok(Event::Incoming(Packet::Publish(publish))) => publish.payload.to_vec(),
            Ok(_) => continue,
            Err(error) => {
                tracing::error!(%error, "the demo's subscriber lost its connection");
                return;
            }
        };
        if payloads.send(payload).await.is_err() {
            return;
        }
    }
}
