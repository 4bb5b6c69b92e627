//! What is in flight on one connection, without any I/O.
//!
//! rumqttc drops what it holds when a broker returns without a session, and it does not say which
//! message a packet id belongs to. So the window keeps both: messages are handed over in order, and
//! the n-th publish that the client reports belongs to the n-th message handed over. Whatever was in
//! flight when a connection ends is sent again from the outbox.
//!
//! A message can end its connection (a broker that cuts off what is too large for it). Everything in
//! flight when the peer breaks a connection becomes a suspect; a suspect is sent alone, and only after
//! the broker answered something else on this connection. If it breaks `strikes_max` such
//! connections, it is the culprit. An outage counts against no message: nothing is in flight then. Nor
//! does an ack timeout: a slow link looks the same.
//!
//! What the broker refuses leaves the window and nothing else: the row stays in the outbox, and the
//! messages behind it go on.

use std::collections::{HashMap, VecDeque};

use crate::outbox::Key;

/// A message that has a row in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum MessageKey {
    /// From the outbox.
    Fresh(Key),
    /// Acknowledged before, and asked for again.
    Replayed(Key),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    Durable(MessageKey),
    /// Retained state of this node, published anew on each connection: its topic below the root.
    Presence(&'static str),
}

/// The broker's acknowledgement of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PublishAck {
    Accepted,
    /// Accepted, but the topic has no subscribers.
    NoSubscribers,
    /// The broker does not take it now, or not from this user: the message stays. With the broker's reason.
    Refused(&'static str),
    /// The broker will never take it: the message itself is at fault. With the broker's reason.
    Invalid(&'static str),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Delivered(MessageKey),
    NoSubscribers(MessageKey),
    Refused(MessageKey, &'static str),
    Invalid(MessageKey, &'static str),
    Presence,
    PresenceRefused(&'static str, &'static str),
    /// A packet id that is not in flight.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Window {
    limit: usize,
    strikes_max: u32,
    /// Handed to the client, packet id not known yet.
    handed: VecDeque<Item>,
    in_flight: HashMap<u16, Item>,
    /// The broker has acknowledged or refused something on this connection.
    has_acked: bool,
    /// Strikes of each suspect.
    suspects: HashMap<MessageKey, u32>,
}

impl Window {
    pub(super) fn new(limit: usize, strikes_max: u32) -> Self {
        Self {
            limit,
            strikes_max,
            handed: VecDeque::new(),
            in_flight: HashMap::new(),
            has_acked: false,
            suspects: HashMap::new(),
        }
    }

    /// For the connection that begins: what the broker allows.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    pub(super) fn has_room(&self) -> bool {
        self.handed.len() + self.in_flight.len() < self.limit
    }

    pub(super) fn is_empty(&self) -> bool {
        self.handed.is_empty() && self.in_flight.is_empty()
    }

    /// Whether this message may be sent now. The caller keeps the order: after a no it asks again for
    /// the same message later.
    pub(super) fn admits(&self, message_key: MessageKey) -> bool {
        if self.suspects.contains_key(&message_key) {
            return self.has_acked && self.is_empty();
        }
        let suspect_in_flight = self.items().any(
            |item| matches!(item, Item::Durable(message_key) if self.suspects.contains_key(message_key)),
        );
        !suspect_in_flight && self.has_room()
    }

    /// Whether this message is on its way.
    pub(super) fn contains(&self, message_key: MessageKey) -> bool {
        self.items().any(|item| *item == Item::Durable(message_key))
    }

    /// The client took this for sending.
    pub(super) fn handed(&mut self, item: Item) {
        self.handed.push_back(item);
    }

    /// The client reports the next publish with its packet id.
    pub(super) fn published(&mut self, packet_id: u16) {
        if let Some(item) = self.handed.pop_front() {
            self.in_flight.insert(packet_id, item);
        }
    }

    pub(super) fn acked(&mut self, packet_id: u16, publish_ack: PublishAck) -> Outcome {
        let Some(item) = self.in_flight.remove(&packet_id) else {
            return Outcome::Unknown;
        };
        // Even a refusal proves that the connection carries messages.
        self.has_acked = true;
        if let Item::Durable(message_key) = item {
            self.suspects.remove(&message_key);
        }
        match (publish_ack, item) {
            (PublishAck::Accepted, Item::Durable(message_key)) => Outcome::Delivered(message_key),
            (PublishAck::NoSubscribers, Item::Durable(message_key)) => {
                Outcome::NoSubscribers(message_key)
            }
            (PublishAck::Refused(reason), Item::Durable(message_key)) => {
                Outcome::Refused(message_key, reason)
            }
            (PublishAck::Invalid(reason), Item::Durable(message_key)) => {
                Outcome::Invalid(message_key, reason)
            }
            (PublishAck::Accepted | PublishAck::NoSubscribers, Item::Presence(_)) => {
                Outcome::Presence
            }
            (PublishAck::Refused(reason) | PublishAck::Invalid(reason), Item::Presence(topic)) => {
                Outcome::PresenceRefused(topic, reason)
            }
        }
    }

    /// The peer broke the connection. Gives the message that is at fault when it has had its last strike.
    pub(super) fn connection_broke(&mut self) -> Option<MessageKey> {
        let message_keys: Vec<MessageKey> = self
            .items()
            .filter_map(|item| match item {
                Item::Durable(message_key) => Some(*message_key),
                Item::Presence(_) => None,
            })
            .collect();
        let has_acked = self.has_acked;
        self.connection_ended();
        let mut culprit = None;
        for message_key in &message_keys {
            let strikes = self.suspects.entry(*message_key).or_insert(0);
            if message_keys.len() == 1 && has_acked {
                *strikes += 1;
                if *strikes >= self.strikes_max {
                    culprit = Some(*message_key);
                }
            }
        }
        if let Some(message_key) = &culprit {
            self.suspects.remove(message_key);
        }
        culprit
    }

    /// The connection ended for a reason that is no message's fault.
    pub(super) fn connection_ended(&mut self) {
        self.handed.clear();
        self.in_flight.clear();
        self.has_acked = false;
    }

    fn items(&self) -> impl Iterator<Item = &Item> {
        self.handed.iter().chain(self.in_flight.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MessageKey = MessageKey::Fresh((1, 0));
    const B: MessageKey = MessageKey::Fresh((2, 0));
    const C: MessageKey = MessageKey::Replayed((3, 0));

    /// A broker that drops the connection on `poison`, as mosquitto does above `message_size_limit`.
    struct Broker {
        poison: Option<MessageKey>,
        window: Window,
        outbox: Vec<MessageKey>,
        delivered: Vec<MessageKey>,
        dead: Vec<MessageKey>,
        connections: usize,
    }

    impl Broker {
        fn new(poison: Option<MessageKey>, outbox: &[MessageKey]) -> Self {
            Self {
                poison,
                window: Window::new(16, 4),
                outbox: outbox.to_vec(),
                delivered: Vec::new(),
                dead: Vec::new(),
                connections: 0,
            }
        }

        /// One connection: presence first, then everything the window admits.
        fn connection(&mut self) {
            self.connections += 1;
            self.window.handed(Item::Presence("state"));
            self.window.published(1);
            assert_eq!(
                self.window.acked(1, PublishAck::Accepted),
                Outcome::Presence
            );
            loop {
                let mut sent = Vec::new();
                for key in self.outbox.clone() {
                    if !self.window.admits(key) {
                        break;
                    }
                    self.window.handed(Item::Durable(key));
                    self.window.published(10 + sent.len() as u16);
                    sent.push(key);
                }
                if sent.is_empty() {
                    return;
                }
                if self.poison.is_some_and(|poison| sent.contains(&poison)) {
                    let culprit = self.window.connection_broke();
                    self.outbox.retain(|key| Some(*key) != culprit);
                    self.dead.extend(culprit);
                    return;
                }
                for (index, key) in sent.iter().enumerate() {
                    let outcome = self.window.acked(10 + index as u16, PublishAck::Accepted);
                    assert_eq!(outcome, Outcome::Delivered(*key));
                    self.outbox.retain(|other| other != key);
                    self.delivered.push(*key);
                }
            }
        }
    }

    #[test]
    fn a_poisonous_message_blocks_nothing_and_only_it_dies() {
        let keys: Vec<MessageKey> = (0..40).map(|seq| MessageKey::Fresh((seq, 0))).collect();
        let mut broker = Broker::new(Some(MessageKey::Fresh((7, 0))), &keys);
        while !broker.outbox.is_empty() {
            broker.connection();
            assert!(broker.connections < 10, "{:?}", broker.outbox);
        }
        assert_eq!(broker.dead, [MessageKey::Fresh((7, 0))]);
        assert_eq!(broker.delivered.len(), 39);
        let rest = keys.into_iter().filter(|key| !broker.dead.contains(key));
        assert!(broker.delivered.iter().copied().eq(rest), "order is kept");
    }

    #[test]
    fn a_broken_connection_strikes_only_with_proof_and_alone() {
        struct Case {
            proof: bool,
            sent: &'static [MessageKey],
            rounds: usize,
            dies: bool,
        }
        let cases = [
            Case {
                proof: true,
                sent: &[A],
                rounds: 4,
                dies: true,
            },
            Case {
                proof: true,
                sent: &[A],
                rounds: 3,
                dies: false,
            },
            Case {
                proof: false,
                sent: &[A],
                rounds: 9,
                dies: false,
            },
            Case {
                proof: true,
                sent: &[A, B],
                rounds: 9,
                dies: false,
            },
            Case {
                proof: true,
                sent: &[],
                rounds: 9,
                dies: false,
            },
        ];
        for (number, case) in cases.iter().enumerate() {
            let mut window = Window::new(16, 4);
            let mut died = false;
            for _ in 0..case.rounds {
                if case.proof {
                    window.handed(Item::Presence("state"));
                    window.published(1);
                    window.acked(1, PublishAck::Accepted);
                }
                case.sent
                    .iter()
                    .for_each(|key| window.handed(Item::Durable(*key)));
                died |= window.connection_broke().is_some();
                assert!(window.is_empty());
            }
            assert_eq!(died, case.dies, "case {number}");
        }
    }

    #[test]
    fn suspects_go_alone_and_after_proof() {
        let mut window = Window::new(16, 4);
        window.handed(Item::Durable(A));
        window.handed(Item::Durable(B));
        assert_eq!(window.connection_broke(), None);
        assert!(!window.admits(A), "no proof yet");
        assert!(window.admits(C), "not a suspect");
        window.handed(Item::Presence("state"));
        window.published(1);
        window.acked(1, PublishAck::Accepted);
        assert!(window.admits(A));
        window.handed(Item::Durable(A));
        assert!(
            !window.admits(B) && !window.admits(C),
            "a suspect flies alone"
        );
        window.published(2);
        assert_eq!(window.acked(2, PublishAck::Accepted), Outcome::Delivered(A));
        assert!(window.admits(B) && window.admits(A), "acquitted");
    }

    #[test]
    fn answers() {
        struct Case {
            item: Item,
            publish_ack: PublishAck,
            expected: Outcome,
        }
        let durable = Item::Durable(A);
        let presence = Item::Presence("state");
        let case = |item, publish_ack, expected| Case {
            item,
            publish_ack,
            expected,
        };
        let cases = [
            case(durable, PublishAck::Accepted, Outcome::Delivered(A)),
            case(
                durable,
                PublishAck::NoSubscribers,
                Outcome::NoSubscribers(A),
            ),
            case(
                durable,
                PublishAck::Refused("no"),
                Outcome::Refused(A, "no"),
            ),
            case(
                durable,
                PublishAck::Invalid("no"),
                Outcome::Invalid(A, "no"),
            ),
            case(presence, PublishAck::Accepted, Outcome::Presence),
            case(presence, PublishAck::NoSubscribers, Outcome::Presence),
            case(
                presence,
                PublishAck::Refused("no"),
                Outcome::PresenceRefused("state", "no"),
            ),
            case(
                presence,
                PublishAck::Invalid("no"),
                Outcome::PresenceRefused("state", "no"),
            ),
        ];
        for case in cases {
            let mut window = Window::new(1, 4);
            window.handed(case.item);
            assert!(!window.admits(B), "the window is full");
            window.published(5);
            assert_eq!(window.acked(6, case.publish_ack), Outcome::Unknown);
            assert_eq!(window.acked(5, case.publish_ack), case.expected);
            assert_eq!(
                window.acked(5, case.publish_ack),
                Outcome::Unknown,
                "answered once"
            );
        }
    }

    #[test]
    fn a_refusal_makes_room_and_proves_the_connection() {
        let mut window = Window::new(1, 4);
        window.handed(Item::Durable(A));
        assert_eq!(window.connection_broke(), None);
        assert!(!window.admits(A), "a suspect without proof");
        window.handed(Item::Presence("state"));
        window.published(1);
        window.acked(1, PublishAck::Refused("no"));
        assert!(window.admits(A), "an answer of any kind is proof");
        window.handed(Item::Durable(A));
        assert!(window.contains(A) && !window.contains(B));
        window.published(2);
        assert_eq!(
            window.acked(2, PublishAck::Refused("no")),
            Outcome::Refused(A, "no")
        );
        assert!(!window.contains(A));
        assert!(window.admits(B), "what is behind goes on");
        assert!(window.admits(A), "the broker answered it: no suspect");
    }

    #[test]
    fn a_timeout_counts_against_no_message() {
        let mut window = Window::new(16, 1);
        for _ in 0..9 {
            window.handed(Item::Presence("state"));
            window.published(1);
            window.acked(1, PublishAck::Accepted);
            assert!(window.admits(A));
            window.handed(Item::Durable(A));
            window.connection_ended();
        }
        window.handed(Item::Durable(A));
        assert_eq!(
            window.connection_broke(),
            None,
            "the first break without proof"
        );
    }

    #[test]
    fn packet_ids_follow_the_order_of_handing_over() {
        let mut window = Window::new(16, 4);
        for key in [A, B, C] {
            window.handed(Item::Durable(key));
        }
        for packet_id in [9, 3, 5] {
            window.published(packet_id);
        }
        assert_eq!(window.acked(3, PublishAck::Accepted), Outcome::Delivered(B));
        assert_eq!(window.acked(5, PublishAck::Accepted), Outcome::Delivered(C));
        assert_eq!(window.acked(9, PublishAck::Accepted), Outcome::Delivered(A));
    }
}
