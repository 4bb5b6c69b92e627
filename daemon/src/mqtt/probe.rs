//! What a broker lets this box do, found out beside a daemon that runs.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::connection::{Connection, Kind, Signal};
use super::window::Verdict;
use crate::config::Config;
use crate::credentials::Broker;

/// What a broker said and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub packet_max_bytes: usize,
    pub receive_max: usize,
    /// From a publish to its PUBACK.
    pub round_trip: Duration,
}

/// Connects as `<node>-doctor`, publishes once below the node's root and leaves. An error says why not in words.
pub(crate) async fn probe(config: &Config, broker: &Broker) -> Result<Probe, String> {
    let patience = Duration::from_secs(config.mqtt.connect_timeout_s);
    let look = timeout(2 * patience, ask(config, broker));
    look.await
        .unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

async fn ask(config: &Config, broker: &Broker) -> Result<Probe, String> {
    let topic = format!("{}doctor", config.mqtt.root(&config.node));
    let client = format!("{}-doctor", config.node);
    let will = (topic.clone(), "gone");
    let mut connection =
        Connection::open(&config.mqtt, broker, &client, will).map_err(|error| error.to_string())?;
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
                    connection.publish(topic.clone(), b"{}".to_vec(), Kind::Message);
                }
                Signal::Published(_) => {}
                Signal::Answered(_, verdict) => {
                    let answer = judge(verdict, &topic);
                    let round_trip = sent.elapsed();
                    connection.close().await;
                    let (packet_max_bytes, receive_max) = limits.unwrap_or_default();
                    return answer.map(|()| Probe {
                        packet_max_bytes,
                        receive_max,
                        round_trip,
                    });
                }
                Signal::Broken(words) | Signal::Silent(words) | Signal::Distrusted(words) => {
                    return Err(words);
                }
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
