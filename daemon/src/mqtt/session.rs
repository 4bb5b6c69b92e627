//! The state of the publisher that lasts for one connection.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::ack_timeout::{self, AckTimer};
use super::connection::{Connection, Lost};
use super::nacks::Nacks;
use super::replay::ReplayProgress;
use super::window::MessageKey;
use crate::config;
use crate::outbox::Key;
use crate::report::state::Readiness;

pub(super) struct Session {
    pub(super) connection: Connection,
    /// When CONNACK came.
    pub(super) connected_at: Option<Instant>,
    pub(super) packet_max_bytes: usize,
    /// Last message handed to the client.
    pub(super) cursor: Option<Key>,
    pub(super) ack_timer: AckTimer,
    pub(super) nacks: Nacks,
    /// That a topic has no subscribers was logged on this connection.
    pub(super) no_subscribers_logged: bool,
    /// When each message in flight was sent, and its topic.
    pub(super) sent: HashMap<MessageKey, Sent>,
    pub(super) replay: ReplayProgress,
    /// The daemon stops: nothing more is sent than what is in flight.
    pub(super) draining: bool,
    pub(super) health_due: Instant,
    /// The state that was published last.
    pub(super) state_published: Option<(Readiness, Vec<&'static str>)>,
    /// The revision of the models that was published last.
    pub(super) models_published: Option<u64>,
}

pub(super) struct Sent {
    pub(super) at: Instant,
    /// Below the node's root.
    pub(super) topic: String,
}

pub(super) enum End {
    Stopped,
    Lost(Lost),
}

impl Session {
    pub(super) fn new(connection: Connection, mqtt: &config::Mqtt, ack_timeouts: u32) -> Self {
        let now = Instant::now();
        Self {
            connection,
            connected_at: None,
            packet_max_bytes: 0,
            cursor: None,
            ack_timer: AckTimer::new(
                ack_timeout::ack_timeout(mqtt.ack_timeout_ms, ack_timeouts),
                now,
            ),
            nacks: Nacks::new(Duration::from_millis(mqtt.backoff_max_ms)),
            no_subscribers_logged: false,
            sent: HashMap::new(),
            replay: ReplayProgress::new(now),
            draining: false,
            health_due: now + Duration::from_secs(mqtt.health_interval_s),
            state_published: None,
            models_published: None,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected_at.is_some()
    }
}
