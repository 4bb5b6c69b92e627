//! What a broker lets this box do, found out beside a daemon that runs.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::connection::version_probe::probe_version;
use super::connection::{Connection, Kind, Lost, PublisherId, Signal};
use super::version_choice::VersionChoice;
use super::window::PublishAck;
use crate::config::{Config, Version};
use crate::tls::credentials::Broker;

/// What a broker said and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub protocol: Version,
    pub packet_max_bytes: usize,
    pub receive_max: usize,
    /// From a publish to its PUBACK.
    pub round_trip: Duration,
    pub retained: Retained,
}

/// What became of a retained message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retained {
    Kept,
    /// Acknowledged, and not given back.
    Gone,
    /// This user may not read below the node's root.
    Unreadable,
}

/// In MQTT 5, in 3.1.1, and in whichever it was that the broker only seemed not to speak.
const ATTEMPTS: u32 = 3;

/// A retained message comes with the subscription, or not at all.
const RETAINED_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects as `<node>-doctor`, publishes once below the node's root and leaves. An error says why not in words.
pub(crate) async fn probe(config: &Config, broker: &Broker) -> Result<Probe, String> {
    let mut version_choice = VersionChoice::new(config.mqtt.protocol);
    let mut words = String::new();
    for _ in 0..ATTEMPTS {
        if version_choice.must_probe() {
            let reply = probe_version(&config.mqtt, broker, &config.node).await;
            version_choice.replied(reply)?;
        }
        let level = version_choice.level();
        let attempt = attempt_once(config, broker, level);
        let connect_timeout = Duration::from_secs(config.mqtt.connect_timeout_s);
        let Ok(attempted) = timeout(2 * connect_timeout + RETAINED_TIMEOUT, attempt).await else {
            return Err("no answer in time".to_owned());
        };
        let lost = match attempted {
            Ok(probe) => return Ok(probe),
            Err(lost) => lost,
        };
        version_choice.ended(&lost, false);
        let goes_on = version_choice.must_probe() || version_choice.level() != level;
        words = lost.words();
        if !goes_on {
            break;
        }
    }
    Err(words)
}

async fn attempt_once(config: &Config, broker: &Broker, level: Version) -> Result<Probe, Lost> {
    let topic = format!("{}doctor", config.mqtt.root(&config.node));
    let publisher = PublisherId {
        client_id: format!("{}-doctor", config.node),
        will_topic: topic.clone(),
        will_payload: "gone",
    };
    let mut connection = Connection::open(level, &config.mqtt, broker, publisher)
        .map_err(|error| Lost::Distrusted(error.to_string()))?;
    let mut limits = None;
    let mut sent = Instant::now();
    loop {
        for signal in connection.signals().await {
            match signal {
                Signal::Connected {
                    packet_max_bytes,
                    receive_max,
                } => {
                    limits = Some((packet_max_bytes, receive_max));
                    sent = Instant::now();
                    // In MQTT 5 the broker says whether it retains.
                    let kind = match level {
                        Version::Five => Kind::Message,
                        Version::Three => Kind::Retained,
                    };
                    connection.publish(topic.clone(), b"{}".to_vec(), kind);
                }
                Signal::Published(_) | Signal::Subscribed(_) | Signal::Received(_) => {}
                Signal::Acked(_, publish_ack) => {
                    judge(publish_ack, &topic).map_err(Lost::Distrusted)?;
                    let round_trip = sent.elapsed();
                    let retained = match level {
                        Version::Five => Retained::Kept,
                        Version::Three => read_back(&mut connection, topic).await?,
                    };
                    connection.close().await;
                    let (packet_max_bytes, receive_max) = limits.unwrap_or_default();
                    return Ok(Probe {
                        protocol: level,
                        packet_max_bytes,
                        receive_max,
                        round_trip,
                        retained,
                    });
                }
                Signal::Lost(lost) => return Err(lost),
            }
        }
    }
}

/// Whether the retained message at `topic` is there, and takes it away.
async fn read_back(connection: &mut Connection, topic: String) -> Result<Retained, Lost> {
    connection.subscribe(topic.clone());
    let received = timeout(RETAINED_TIMEOUT, receive_retained(connection)).await;
    let retained = received.unwrap_or(Ok(Retained::Gone))?;
    // An empty one.
    connection.publish(topic, Vec::new(), Kind::Retained);
    Ok(retained)
}

async fn receive_retained(connection: &mut Connection) -> Result<Retained, Lost> {
    loop {
        for signal in connection.signals().await {
            match signal {
                Signal::Subscribed(false) => return Ok(Retained::Unreadable),
                Signal::Received(true) => return Ok(Retained::Kept),
                Signal::Lost(lost) => return Err(lost),
                _ => {}
            }
        }
    }
}

fn judge(publish_ack: PublishAck, topic: &str) -> Result<(), String> {
    match publish_ack {
        PublishAck::Accepted | PublishAck::NoSubscribers => Ok(()),
        PublishAck::Refused(why) | PublishAck::Invalid(why) => Err(format!(
            "it refuses what is published to {topic}: {why}; let this user write below it"
        )),
    }
}
