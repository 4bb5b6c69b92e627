//! A broker for one machine and one demonstration: MQTT 3.1.1 and 5 on one loopback port, retained
//! messages, wills; takes QoS 1, delivers QoS 0, keeps nothing on disk.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::packet::{self, Packet, Publish};

/// Messages that a slow subscriber may lag behind before it is cut off.
const LAG_MAX_MESSAGES: usize = 4096;

pub(super) struct Broker {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Broker {
    /// Listens on a free loopback port until it is dropped.
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let hub = Hub::default();
        let task = tokio::spawn(async move {
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                number += 1;
                tokio::spawn(serve(hub.clone(), number, stream));
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone, Default)]
struct Hub {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    retained: BTreeMap<String, Publish>,
    clients: HashMap<u64, Client>,
}

struct Client {
    level: u8,
    filters: Vec<String>,
    outgoing: mpsc::Sender<Vec<u8>>,
}

impl Hub {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, publish: Publish) {
        let mut state = self.state();
        let delivered = Publish {
            retain: false,
            ..publish.clone()
        };
        state.clients.retain(|_, client| {
            let wanted = client
                .filters
                .iter()
                .any(|filter| matches(filter, &publish.topic));
            let packet = || packet::publish(&delivered, client.level);
            // A full queue ends the client: its sender is dropped with it.
            !wanted || client.outgoing.try_send(packet()).is_ok()
        });
        if publish.retain {
            if publish.payload.is_empty() {
                state.retained.remove(&publish.topic);
            } else {
                state.retained.insert(publish.topic.clone(), publish);
            }
        }
    }

    fn subscribe(&self, number: u64, filters: Vec<String>) {
        let mut state = self.state();
        let State { retained, clients } = &mut *state;
        let Some(client) = clients.get_mut(&number) else {
            return;
        };
        for publish in retained.values() {
            if filters.iter().any(|filter| matches(filter, &publish.topic)) {
                // A client that is full before its first message is cut off at the next one.
                let _ = client
                    .outgoing
                    .try_send(packet::publish(publish, client.level));
            }
        }
        client.filters.extend(filters);
    }

    fn unsubscribe(&self, number: u64, filters: &[String]) {
        if let Some(client) = self.state().clients.get_mut(&number) {
            client.filters.retain(|filter| !filters.contains(filter));
        }
    }
}

/// One client from CONNECT to its end.
async fn serve(hub: Hub, number: u64, stream: TcpStream) {
    let (mut reader, mut writer) = stream.into_split();
    let Ok(Packet::Connect {
        level,
        will,
        client,
    }) = packet::read(&mut reader, 0).await
    else {
        return;
    };
    if !matches!(level, 4 | 5) {
        // The client learns why; that it may be gone already does not matter.
        let _ = writer.write_all(&packet::refused()).await;
        return;
    }
    tracing::debug!(client, level, "demo broker: client connected");
    let (outgoing, mut queue) = mpsc::channel::<Vec<u8>>(LAG_MAX_MESSAGES);
    hub.state().clients.insert(
        number,
        Client {
            level,
            filters: Vec::new(),
            outgoing: outgoing.clone(),
        },
    );
    let write = tokio::spawn(async move {
        while let Some(bytes) = queue.recv().await {
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let peer = Peer {
        number,
        level,
        outgoing,
    };
    let clean = listen(&hub, &peer, &mut reader).await.is_ok();
    hub.state().clients.remove(&number);
    write.abort();
    if let Some(will) = will.filter(|_| !clean) {
        hub.publish(will);
    }
}

/// The other end of one connection.
struct Peer {
    number: u64,
    level: u8,
    outgoing: mpsc::Sender<Vec<u8>>,
}

/// Answers packets; Ok after DISCONNECT.
async fn listen(hub: &Hub, peer: &Peer, reader: &mut OwnedReadHalf) -> io::Result<()> {
    let Peer {
        number,
        level,
        ref outgoing,
    } = *peer;
    let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    outgoing.send(packet::connack(level)).await.map_err(gone)?;
    loop {
        let answer = match packet::read(reader, level).await? {
            Packet::Publish { publish, packet_id } => {
                hub.publish(publish);
                packet_id.map(packet::puback)
            }
            Packet::Subscribe { packet_id, filters } => {
                let answer = packet::suback(true, packet_id, filters.len(), level);
                outgoing.send(answer).await.map_err(gone)?;
                hub.subscribe(number, filters);
                None
            }
            Packet::Unsubscribe { packet_id, filters } => {
                hub.unsubscribe(number, &filters);
                Some(packet::suback(false, packet_id, filters.len(), level))
            }
            Packet::PingReq => Some(packet::pingresp()),
            Packet::Answer => None,
            Packet::Disconnect => return Ok(()),
            Packet::Connect { .. } => return Err(io::ErrorKind::InvalidData.into()),
        };
        if let Some(answer) = answer {
            outgoing.send(answer).await.map_err(gone)?;
        }
    }
}

fn matches(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for level in filter.split('/') {
        match (level, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(other)) if level == other => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::matches;

    /// From section 4.7.1 of the MQTT 5 specification.
    #[test]
    fn filters() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
                true,
            ),
            ("sport/#", "sport", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("+", "/finance", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }
}
