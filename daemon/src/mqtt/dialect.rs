//! Which MQTT the next connection speaks, without any I/O.
//!
//! MQTT 5 comes first. A broker that does not speak it says so in many ways: CONNACK with a reason, four
//! bytes in 3.1.1's form, a closed connection, or nothing at all. Only the first reaches the client library,
//! so after an attempt without CONNACK the broker is asked once more, by hand ([`Greeting`]). One that closes
//! or says nothing may simply be busy; so a broker that has spoken MQTT 5 before keeps it for a while, and a
//! connection in 3.1.1 that rests on a silence is not used before the broker was asked again.
//!
//! 3.1.1 tells less (no reasons, no limits), so it is never kept longer than needed: after each connection in
//! it the broker is asked anew, and an upgraded one is noticed.

use super::connection::Lost;
use super::connection::hello::Greeting;
use crate::config::{Protocol, Version};

#[derive(Debug)]
pub(super) struct Dialect {
    protocol: Protocol,
    level: Version,
    /// The broker said itself that it has no MQTT 5.
    certain: bool,
    /// It has spoken MQTT 5 since this program started.
    has_five: bool,
    /// Attempts in a row without CONNACK.
    vain: u32,
    /// The broker is to be asked before the next attempt.
    asking: bool,
}

/// Attempts in a row after which a broker that spoke MQTT 5 is asked whether it still does.
const VAIN_MAX: u32 = 5;

const TLS_PORT: &str = "the broker's port answers in TLS, and this box speaks plain MQTT; give [mqtt.tls] with \
                        `ca_file`, or the port for plain MQTT in `mqtt.port`";
const HTTP_PORT: &str = "an HTTP server answers at the broker's port (MQTT over WebSocket is not spoken here); \
                         put the port for MQTT over TCP into `mqtt.port`";
const PINNED: &str = "the broker does not speak MQTT 5, and `mqtt.protocol` allows nothing else; set it to \
                      \"auto\" or \"3.1.1\"";

impl Dialect {
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
            vain: 0,
            asking: false,
        }
    }

    pub(super) fn level(&self) -> Version {
        self.level
    }

    pub(super) fn is_asking(&self) -> bool {
        self.asking
    }

    /// What the broker answered when it was asked. Words when a connection is of no use; then it is asked again
    /// before the next one.
    pub(super) fn greeted(&mut self, greeting: Greeting) -> Result<(), &'static str> {
        match greeting {
            Greeting::Tls => return Err(TLS_PORT),
            Greeting::Http => return Err(HTTP_PORT),
            Greeting::Old if self.protocol == Protocol::Five => return Err(PINNED),
            _ => self.asking = false,
        }
        match greeting {
            Greeting::Tls | Greeting::Http => {}
            _ if self.protocol != Protocol::Auto => {}
            Greeting::Five => {
                (self.level, self.certain, self.has_five) = (Version::Five, false, true);
                self.vain = 0;
            }
            Greeting::Old => {
                (self.level, self.certain, self.has_five) = (Version::Three, true, false);
            }
            // In turns: a broker may take a node and not the one that asks.
            Greeting::Closed | Greeting::Mute => {
                (self.level, self.certain) = match self.level {
                    Version::Five => (Version::Three, false),
                    Version::Three if self.certain => (Version::Three, true),
                    Version::Three => (Version::Five, false),
                };
            }
            Greeting::Away => {}
        }
        Ok(())
    }

    /// What it answered while a connection in 3.1.1 stands. True when that one is to be given up.
    pub(super) fn confirmed(&mut self, greeting: Greeting) -> bool {
        if greeting == Greeting::Five {
            (self.level, self.has_five) = (Version::Five, true);
            return true;
        }
        self.certain = true;
        false
    }

    /// CONNACK came. True when the broker has to be asked before this connection is used.
    pub(super) fn connected(&mut self) -> bool {
        self.vain = 0;
        self.has_five |= self.level == Version::Five;
        self.level == Version::Three && !self.certain && self.protocol == Protocol::Auto
    }

    /// A connection is over, or did not come to be.
    pub(super) fn ended(&mut self, lost: &Lost, was_connected: bool) {
        let is_three = self.level == Version::Three && self.protocol == Protocol::Auto;
        if was_connected {
            self.asking = is_three;
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
            Lost::Broken(_) | Lost::Silent(_) => {
                self.vain += 1;
                self.asking = is_three || !self.has_five || self.vain >= VAIN_MAX;
            }
            Lost::Version(_) | Lost::Distrusted(_) | Lost::Unfit(_) | Lost::Taken(_) => {}
        }
    }
}

/// Connections in a row that the broker ended soon after CONNACK, as two clients of one name make each other's end.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    short: u32,
}

/// What "soon" is.
const SOON_S: u64 = 5;

impl Rivals {
    /// Whether to ask for another client of this name.
    pub(super) fn ended(&mut self, lived: std::time::Duration) -> bool {
        if lived.as_secs() < SOON_S {
            self.short += 1;
        }
        self.short >= 2
    }

    /// The connection at hand is good.
    pub(super) fn held(&mut self) {
        self.short = 0;
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
        Lost::Silent(String::new())
    }

    fn auto() -> Dialect {
        Dialect::new(Protocol::Auto)
    }

    #[test]
    fn a_broker_that_refuses_in_four_bytes_is_spoken_to_in_3_1_1() {
        let mut dialect = auto();
        dialect.ended(&broken(), false);
        assert!(dialect.is_asking());
        dialect.greeted(Greeting::Old).unwrap();
        assert_eq!(dialect.level(), Version::Three);
        assert!(!dialect.connected(), "certain");
        // An outage: the next broker may be a newer one.
        dialect.ended(&broken(), true);
        assert!(dialect.is_asking());
        dialect.greeted(Greeting::Five).unwrap();
        assert_eq!(dialect.level(), Version::Five);
    }

    #[test]
    fn a_reason_is_taken_at_its_word() {
        let mut dialect = auto();
        dialect.ended(&Lost::Version(String::new()), false);
        assert_eq!(
            (dialect.level(), dialect.is_asking()),
            (Version::Three, false)
        );
        assert!(!dialect.connected());
        dialect.ended(&Lost::Version(String::new()), false);
        assert_eq!(dialect.level(), Version::Five, "it speaks nothing but 5");
    }

    #[test]
    fn a_broker_that_spoke_mqtt_5_and_hangs_keeps_it() {
        let mut dialect = auto();
        assert!(!dialect.connected());
        dialect.ended(&silent(), true);
        for _ in 1..VAIN_MAX {
            dialect.ended(&silent(), false);
            assert!(!dialect.is_asking());
        }
        // It may have been exchanged for another.
        dialect.ended(&silent(), false);
        assert!(dialect.is_asking());
        dialect.greeted(Greeting::Mute).unwrap();
        assert_eq!(dialect.level(), Version::Three);
        assert!(dialect.connected(), "asked again before it is used");
        assert!(dialect.confirmed(Greeting::Five));
        assert_eq!(dialect.level(), Version::Five);
    }

    #[test]
    fn a_broker_that_is_mute_in_mqtt_5_alone_is_spoken_to_in_3_1_1() {
        let mut dialect = auto();
        dialect.ended(&silent(), false);
        dialect.greeted(Greeting::Mute).unwrap();
        assert!(dialect.connected());
        assert!(!dialect.confirmed(Greeting::Mute));
        assert_eq!(dialect.level(), Version::Three);
        dialect.ended(&broken(), true);
        dialect.greeted(Greeting::Mute).unwrap();
        assert_eq!(dialect.level(), Version::Three, "no need to try again");
        assert!(!dialect.connected());
    }

    #[test]
    fn a_silent_broker_is_tried_in_both() {
        let mut dialect = auto();
        let mut levels = Vec::new();
        for _ in 0..4 {
            levels.push(dialect.level());
            dialect.ended(&broken(), false);
            assert!(dialect.is_asking());
            dialect.greeted(Greeting::Closed).unwrap();
        }
        let (five, three) = (Version::Five, Version::Three);
        assert_eq!(levels, [five, three, five, three]);
        // Nobody was there to ask.
        dialect.greeted(Greeting::Away).unwrap();
        assert_eq!(dialect.level(), five);
    }

    #[test]
    fn what_is_asked_for_is_spoken() {
        let mut dialect = Dialect::new(Protocol::Five);
        dialect.ended(&broken(), false);
        assert!(dialect.is_asking());
        assert!(
            dialect
                .greeted(Greeting::Old)
                .unwrap_err()
                .contains("mqtt.protocol")
        );
        assert!(dialect.is_asking(), "until it has MQTT 5");
        assert_eq!(dialect.level(), Version::Five);
        let mut dialect = Dialect::new(Protocol::Three);
        dialect.ended(&broken(), false);
        dialect.greeted(Greeting::Five).unwrap();
        assert_eq!(dialect.level(), Version::Three);
        assert!(!dialect.connected());
        assert!(
            dialect
                .greeted(Greeting::Tls)
                .unwrap_err()
                .contains("[mqtt.tls]")
        );
    }

    #[test]
    fn two_short_lives_in_a_row_look_like_a_rival() {
        let mut rivals = Rivals::default();
        let short = Duration::from_millis(300);
        assert!(!rivals.ended(short));
        assert!(rivals.ended(short));
        assert!(rivals.ended(Duration::from_secs(8)), "it waits longer now");
        rivals.held();
        assert!(!rivals.ended(short));
    }
}
