//! Which MQTT the next connection speaks, without any I/O.
//!
//! MQTT 5 comes first. A broker that does not speak it says so in many ways: CONNACK with a reason, four
//! bytes in 3.1.1's form, a closed connection, or nothing at all. Only the first reaches the client library,
//! so after an attempt without CONNACK the broker is asked once more, by hand ([`VersionReply`]). One that closes
//! or says nothing may simply be busy; so a broker that has spoken MQTT 5 before keeps it for a while, and a
//! connection in 3.1.1 that rests on a silence is not used before the broker was asked again.
//!
//! 3.1.1 tells less (no reasons, no limits), so it is never kept longer than needed: after each connection in
//! it the broker is asked anew, and an upgraded one is noticed.

use super::connection::Lost;
use super::connection::version_probe::VersionReply;
use crate::config::{Protocol, Version};

#[derive(Debug)]
pub(super) struct VersionChoice {
    protocol: Protocol,
    level: Version,
    /// The broker itself said that it has no MQTT 5.
    certain: bool,
    /// It has spoken MQTT 5 since this program started.
    has_five: bool,
    /// Attempts in a row without CONNACK.
    failed_attempts: u32,
    /// The broker is to be asked before the next attempt.
    must_probe: bool,
}

/// Attempts in a row after which a broker that spoke MQTT 5 is asked whether it still does.
const FAILED_ATTEMPTS_MAX: u32 = 5;

const TLS_PORT: &str = "the broker's port answers in TLS, and this box speaks plain MQTT; give [mqtt.tls] with \
                        `ca_file`, or the port for plain MQTT in `mqtt.port`";
const HTTP_PORT: &str = "an HTTP server answers at the broker's port (MQTT over WebSocket is not spoken here); \
                         put the port for MQTT over TCP into `mqtt.port`";
const PINNED: &str = "the broker does not speak MQTT 5, and `mqtt.protocol` allows nothing else; set it to \
                      \"auto\" or \"3.1.1\"";

impl VersionChoice {
    pub(super) fn new(protocol: Protocol) -> Self {
        let level = match protocol {
            Protocol::Auto | Protocol::Five => Version::Five,
            Protocol::Three => Version::Three,
        };
        Self {
            protocol,
            level,
            certain: protocol == Protocol::Three,
            has_five: false,
            failed_attempts: 0,
            must_probe: false,
        }
    }

    pub(super) fn level(&self) -> Version {
        self.level
    }

    pub(super) fn must_probe(&self) -> bool {
        self.must_probe
    }

    /// What the broker answered when it was asked. Words when a connection is of no use; then it is asked again
    /// before the next one.
    pub(super) fn replied(&mut self, reply: VersionReply) -> Result<(), &'static str> {
        match reply {
            VersionReply::Tls => return Err(TLS_PORT),
            VersionReply::Http => return Err(HTTP_PORT),
            VersionReply::Three if self.protocol == Protocol::Five => return Err(PINNED),
            _ => self.must_probe = false,
        }
        match reply {
            VersionReply::Tls | VersionReply::Http => {}
            _ if self.protocol != Protocol::Auto => {}
            VersionReply::Five => {
                (self.level, self.certain, self.has_five) = (Version::Five, false, true);
                self.failed_attempts = 0;
            }
            VersionReply::Three => {
                (self.level, self.certain, self.has_five) = (Version::Three, true, false);
            }
            // In turns: a broker may take a node and not the one that asks.
            VersionReply::Closed | VersionReply::NoReply => {
                (self.level, self.certain) = match self.level {
                    Version::Five => (Version::Three, false),
                    Version::Three if self.certain => (Version::Three, true),
                    Version::Three => (Version::Five, false),
                };
            }
            VersionReply::NotReached => {}
        }
        Ok(())
    }

    /// Takes the reply that came while a connection in 3.1.1 stands. True when that connection is to be given up.
    pub(super) fn confirmed(&mut self, reply: VersionReply) -> bool {
        if reply == VersionReply::Five {
            (self.level, self.has_five) = (Version::Five, true);
            return true;
        }
        self.certain = true;
        false
    }

    /// CONNACK came. True when the broker has to be asked before this connection is used.
    pub(super) fn connected(&mut self) -> bool {
        self.failed_attempts = 0;
        self.has_five |= self.level == Version::Five;
        self.level == Version::Three && !self.certain && self.protocol == Protocol::Auto
    }

    /// A connection is over, or did not come to be.
    pub(super) fn ended(&mut self, lost: &Lost, was_connected: bool) {
        let is_three = self.level == Version::Three && self.protocol == Protocol::Auto;
        if was_connected {
            self.must_probe = is_three;
            return;
        }
        match lost {
            Lost::Version(_) if self.protocol == Protocol::Auto => {
                self.level = match self.level {
                    Version::Five => Version::Three,
                    Version::Three => Version::Five,
                };
                self.certain = self.level == Version::Three;
                self.has_five = false;
            }
            Lost::Broken(_) | Lost::Unreachable(_) => {
                self.failed_attempts += 1;
                self.must_probe =
                    is_three || !self.has_five || self.failed_attempts >= FAILED_ATTEMPTS_MAX;
            }
            Lost::Version(_) | Lost::Distrusted(_) | Lost::Unsupported(_) | Lost::TakenOver(_) => {}
        }
    }
}

/// Connections in a row that the broker ended soon after CONNACK, as two clients of one name make each other's end.
#[derive(Debug, Default)]
pub(super) struct DuplicateClients {
    short_connections: u32,
}

/// A connection that lives less than this counts as short.
const SHORT_CONNECTION_S: u64 = 5;

impl DuplicateClients {
    /// Whether to ask for another client of this name.
    pub(super) fn ended(&mut self, lived: std::time::Duration) -> bool {
        if lived.as_secs() < SHORT_CONNECTION_S {
            self.short_connections += 1;
        }
        self.short_connections >= 2
    }

    /// The present connection is good.
    pub(super) fn connection_held(&mut self) {
        self.short_connections = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn broken() -> Lost {
        Lost::Broken(String::new())
    }

    fn silent() -> Lost {
        Lost::Unreachable(String::new())
    }

    fn auto() -> VersionChoice {
        VersionChoice::new(Protocol::Auto)
    }

    #[test]
    fn a_broker_that_refuses_in_four_bytes_is_spoken_to_in_3_1_1() {
        let mut version_choice = auto();
        version_choice.ended(&broken(), false);
        assert!(version_choice.must_probe());
        version_choice.replied(VersionReply::Three).unwrap();
        assert_eq!(version_choice.level(), Version::Three);
        assert!(!version_choice.connected(), "certain");
        // An outage: the next broker may be a newer one.
        version_choice.ended(&broken(), true);
        assert!(version_choice.must_probe());
        version_choice.replied(VersionReply::Five).unwrap();
        assert_eq!(version_choice.level(), Version::Five);
    }

    #[test]
    fn a_reason_is_taken_at_its_word() {
        let mut version_choice = auto();
        version_choice.ended(&Lost::Version(String::new()), false);
        assert_eq!(
            (version_choice.level(), version_choice.must_probe()),
            (Version::Three, false)
        );
        assert!(!version_choice.connected());
        version_choice.ended(&Lost::Version(String::new()), false);
        assert_eq!(
            version_choice.level(),
            Version::Five,
            "it speaks nothing but 5"
        );
    }

    #[test]
    fn a_broker_that_spoke_mqtt_5_and_hangs_keeps_it() {
        let mut version_choice = auto();
        assert!(!version_choice.connected());
        version_choice.ended(&silent(), true);
        for _ in 1..FAILED_ATTEMPTS_MAX {
            version_choice.ended(&silent(), false);
            assert!(!version_choice.must_probe());
        }
        // It may have been exchanged for another.
        version_choice.ended(&silent(), false);
        assert!(version_choice.must_probe());
        version_choice.replied(VersionReply::NoReply).unwrap();
        assert_eq!(version_choice.level(), Version::Three);
        assert!(version_choice.connected(), "asked again before it is used");
        assert!(version_choice.confirmed(VersionReply::Five));
        assert_eq!(version_choice.level(), Version::Five);
    }

    #[test]
    fn a_broker_that_is_mute_in_mqtt_5_alone_is_spoken_to_in_3_1_1() {
        let mut version_choice = auto();
        version_choice.ended(&silent(), false);
        version_choice.replied(VersionReply::NoReply).unwrap();
        assert!(version_choice.connected());
        assert!(!version_choice.confirmed(VersionReply::NoReply));
        assert_eq!(version_choice.level(), Version::Three);
        version_choice.ended(&broken(), true);
        version_choice.replied(VersionReply::NoReply).unwrap();
        assert_eq!(
            version_choice.level(),
            Version::Three,
            "no need to try again"
        );
        assert!(!version_choice.connected());
    }

    #[test]
    fn a_silent_broker_is_tried_in_both() {
        let mut version_choice = auto();
        let mut levels = Vec::new();
        for _ in 0..4 {
            levels.push(version_choice.level());
            version_choice.ended(&broken(), false);
            assert!(version_choice.must_probe());
            version_choice.replied(VersionReply::Closed).unwrap();
        }
        let (five, three) = (Version::Five, Version::Three);
        assert_eq!(levels, [five, three, five, three]);
        // The broker was not reached.
        version_choice.replied(VersionReply::NotReached).unwrap();
        assert_eq!(version_choice.level(), five);
    }

    #[test]
    fn what_is_asked_for_is_spoken() {
        let mut version_choice = VersionChoice::new(Protocol::Five);
        version_choice.ended(&broken(), false);
        assert!(version_choice.must_probe());
        assert!(
            version_choice
                .replied(VersionReply::Three)
                .unwrap_err()
                .contains("mqtt.protocol")
        );
        assert!(version_choice.must_probe(), "until it has MQTT 5");
        assert_eq!(version_choice.level(), Version::Five);
        let mut version_choice = VersionChoice::new(Protocol::Three);
        version_choice.ended(&broken(), false);
        version_choice.replied(VersionReply::Five).unwrap();
        assert_eq!(version_choice.level(), Version::Three);
        assert!(!version_choice.connected());
        assert!(
            version_choice
                .replied(VersionReply::Tls)
                .unwrap_err()
                .contains("[mqtt.tls]")
        );
    }

    #[test]
    fn two_short_connections_in_a_row_look_like_another_client() {
        let mut duplicate_clients = DuplicateClients::default();
        let short = Duration::from_millis(300);
        assert!(!duplicate_clients.ended(short));
        assert!(duplicate_clients.ended(short));
        assert!(
            duplicate_clients.ended(Duration::from_secs(8)),
            "it waits longer now"
        );
        duplicate_clients.connection_held();
        assert!(!duplicate_clients.ended(short));
    }
}
