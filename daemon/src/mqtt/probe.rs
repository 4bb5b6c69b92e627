//! What a broker lets this box do, found out beside a daemon that runs.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::connection::hello::hello;
use super::connection::{Connection, Kind, Lost, Signal};
use super::dialect::Dialect;
use super::window::Verdict;
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
const RETAINED_WITHIN: Duration = Duration::from_secs(2);

/// Connects as `<node>-doctor`, publishes once below the node's root and leaves. An error says why not in words.
pub(crate) async fn probe(config: &Config, broker: &Broker) -> Result<Probe, String> {
    let mut dialect = Dialect::new(config.mqtt.protocol);
    let mut words = String::new();
    for _ in 0..ATTEMPTS {
        if dialect.is_asking() {
            let greeting = hello(&config.mqtt, broker, &config.node).await;
            dialect.greeted(greeting)?;
        }
        let level = dialect.level();
        let look = attempt(config, broker, level);
        let patience = Duration::from_secs(config.mqtt.connect_timeout_s);
        let Ok(looked) = timeout(2 * patience + RETAINED_WITHIN, look).await else {
            return Err("no answer in time".to_owned());
        };
        let lost = match looked {
            Ok(probe) => return Ok(probe),
            Err(lost) => lost,
        };
        dialect.ended(&lost, false);
        let goes_on = dialect.is_asking() || dialect.level() != level;
        words = lost.words();
        if !goes_on {
            break;
        }
    }
    Err(words)
}

async fn attempt(config: &Config, broker: &Broker, level: Version) -> Result<Probe, Lost> {
    let topic = format!("{}doctor", config.mqtt.root(&config.node));
    let name = format!("{}-doctor", config.node);
    let will = (topic.clone(), "gone");
    let mut connection = Connection::open(level, &config.mqtt, (broker, &name), will)
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
                Signal::Published(_) | Signal::Subscribed(_) | Signal::Came(_) => {}
                Signal::Answered(_, verdict) => {
                    judge(verdict, &topic).map_err(Lost::Distrusted)?;
                    let round_trip = sent.elapsed();
                    let retained = match level {
                        Version::Five => Retained::Kept,
                        Version::Three => look_back(&mut connection, topic).await?,
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
async fn look_back(connection: &mut Connection, topic: String) -> Result<Retained, Lost> {
    connection.subscribe(topic.clone());
    let came = timeout(RETAINED_WITHIN, came(connection)).await;
    let retained = came.unwrap_or(Ok(Retained::Gone))?;
    // An empty one.
    connection.publish(topic, Vec::new(), Kind::Retained);
    Ok(retained)
}

async fn came(connection: &mut Connection) -> Result<Retained, Lost> {
    loop {
        for signal in connection.signals().await {
            match signal {
                Signal::Subscribed(false) => return Ok(Retained::Unreadable),
                Signal::Came(true) => return Ok(Retained::Kept),
                Signal::Lost(lost) => return Err(lost),
                _ => {}
            }
        }
    }
}

fn judge(verdict: Verdict, topic: &str) -> Result<(), String> {
    match verdict {
        Verdict::Accepted | Verdict::Unheard => Ok(()),
        Verdict::Refused(why) | Verdict::Invalid(why) => Err(format!(
            "it refuses what is published to {topic}: {why}; let this user write below it"
        )),
    }
}
