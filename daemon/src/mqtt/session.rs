//! One connection's share of the publisher's state.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::ack_timeout::{self, Silence};
use super::connection::{Connection, Lost};
use super::nacks::Refusals;
use super::replay::Again;
use super::window::Letter;
use crate::config;
use crate::outbox::Key;
use crate::report::state::Readiness;

pub(super) struct Session {
    pub(super) connection: Connection,
    /// Since when the broker talks to this node.
    pub(super) connected_at: Option<Instant>,
    pub(super) packet_max_bytes: usize,
    /// Last message handed to the client.
    pub(super) cursor: Option<Key>,
    pub(super) silence: Silence,
    pub(super) refusals: Refusals,
    /// Nobody subscribes to the results; said once.
    pub(super) unheard: bool,
    /// Each message in flight.
    pub(super) sent: HashMap<Letter, Sent>,
    pub(super) again: Again,
    /// What is in flight is the last.
    pub(super) draining: bool,
    pub(super) health_due: Instant,
    /// State as last published.
    pub(super) said: Option<(Readiness, Vec<&'static str>)>,
    /// Revision of the models as last published.
    pub(super) models_said: Option<u64>,
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
    pub(super) fn new(connection: Connection, mqtt: &config::Mqtt, silences: u32) -> Self {
        let now = Instant::now();
        Self {
            connection,
            connected_at: None,
            packet_max_bytes: 0,
            cursor: None,
            silence: Silence::new(ack_timeout::patience(mqtt.ack_timeout_ms, silences), now),
            refusals: Refusals::new(Duration::from_millis(mqtt.backoff_max_ms)),
            unheard: false,
            sent: HashMap::new(),
            again: Again::new(now),
            draining: false,
            health_due: now + Duration::from_secs(mqtt.health_interval_s),
            said: None,
            models_said: None,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected_at.is_some()
    }
}
