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
//! connections, it is the culprit. An outage strikes nobody: nothing is in flight then. Nor does
//! silence: a slow link looks the same.
//!
//! What the broker refuses leaves the window and nothing else: the row stays in the outbox, and the
//! messages behind it go on.

use std::collections::{HashMap, VecDeque};

use crate::outbox::Key;

/// A message with a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Letter {
    /// From the outbox.
    Fresh(Key),
    /// Acknowledged before, and asked for again.
    Again(Key),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    Durable(Letter),
    /// Retained state of this node, published anew on each connection: its topic below the root.
    Presence(&'static str),
}

/// The broker's answer to one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    /// Accepted, but nobody subscribes to the topic.
    Unheard,
    /// Not now or not for this user: the message stays. With the broker's reason.
    Refused(&'static str),
    /// Never: the message itself is at fault. With the broker's reason.
    Invalid(&'static str),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Delivered(Letter),
    Unheard(Letter),
    Refused(Letter, &'static str),
    Invalid(Letter, &'static str),
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
    flying: HashMap<u16, Item>,
    /// The broker answered something on this connection.
    proven: bool,
    /// Strikes of each suspect.
    suspects: HashMap<Letter, u32>,
}

impl Window {
    pub(super) fn new(limit: usize, strikes_max: u32) -> Self {
        Self {
            limit,
            strikes_max,
            handed: VecDeque::new(),
            flying: HashMap::new(),
            proven: false,
            suspects: HashMap::new(),
        }
    }

    /// For the connection that begins: what the broker allows.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    pub(super) fn has_room(&self) -> bool {
        self.handed.len() + self.flying.len() < self.limit
    }

    pub(super) fn is_empty(&self) -> bool {
        self.handed.is_empty() && self.flying.is_empty()
    }

    /// Whether this message may be sent now. The caller keeps the order: after a no it asks again for
    /// the same message later.
    pub(super) fn admits(&self, letter: Letter) -> bool {
        if self.suspects.contains_key(&letter) {
            return self.proven && self.is_empty();
        }
        let suspect_flies = self.items().any(
            |item| matches!(item, Item::Durable(letter) if self.suspects.contains_key(letter)),
        );
        !suspect_flies && self.has_room()
    }

    /// Whether this message is on its way.
    pub(super) fn holds(&self, letter: Letter) -> bool {
        self.items().any(|item| *item == Item::Durable(letter))
    }

    /// The client took this for sending.
    pub(super) fn handed(&mut self, item: Item) {
        self.handed.push_back(item);
    }

    /// The client reports the next publish with its packet id.
    pub(super) fn published(&mut self, packet_id: u16) {
        if let Some(item) = self.handed.pop_front() {
            self.flying.insert(packet_id, item);
        }
    }

    pub(super) fn answered(&mut self, packet_id: u16, verdict: Verdict) -> Outcome {
        let Some(item) = self.flying.remove(&packet_id) else {
            return Outcome::Unknown;
        };
        // Even a no proves that the connection carries messages.
        self.proven = true;
        if let Item::Durable(letter) = item {
            self.suspects.remove(&letter);
        }
        match (verdict, item) {
            (Verdict::Accepted, Item::Durable(letter)) => Outcome::Delivered(letter),
            (Verdict::Unheard, Item::Durable(letter)) => Outcome::Unheard(letter),
            (Verdict::Refused(reason), Item::Durable(letter)) => Outcome::Refused(letter, reason),
            (Verdict::Invalid(reason), Item::Durable(letter)) => Outcome::Invalid(letter, reason),
            (Verdict::Accepted | Verdict::Unheard, Item::Presence(_)) => Outcome::Presence,
            (Verdict::Refused(reason) | Verdict::Invalid(reason), Item::Presence(topic)) => {
                Outcome::PresenceRefused(topic, reason)
            }
        }
    }

    /// The peer broke the connection. Gives the culprit when its last strike fell.
    pub(super) fn broke(&mut self) -> Option<Letter> {
        let letters: Vec<Letter> = self
            .items()
            .filter_map(|item| match item {
                Item::Durable(letter) => Some(*letter),
                Item::Presence(_) => None,
            })
            .collect();
        let proven = self.proven;
        self.closed();
        let mut culprit = None;
        for letter in &letters {
            let strikes = self.suspects.entry(*letter).or_insert(0);
            if letters.len() == 1 && proven {
                *strikes += 1;
                if *strikes >= self.strikes_max {
                    culprit = Some(*letter);
                }
            }
        }
        if let Some(letter) = &culprit {
            self.suspects.remove(letter);
        }
        culprit
    }

    /// The connection ended for a reason that is no message's fault.
    pub(super) fn closed(&mut self) {
        self.handed.clear();
        self.flying.clear();
        self.proven = false;
    }

    fn items(&self) -> impl Iterator<Item = &Item> {
        self.handed.iter().chain(self.flying.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Letter = Letter::Fresh((1, 0));
    const B: Letter = Letter::Fresh((2, 0));
    const C: Letter = Letter::Again((3, 0));

    /// A broker that drops the connection on `poison`, as mosquitto does above `message_size_limit`.
    struct Broker {
        poison: Option<Letter>,
        window: Window,
        outbox: Vec<Letter>,
        delivered: Vec<Letter>,
        dead: Vec<Letter>,
        connections: usize,
    }

    impl Broker {
        fn new(poison: Option<Letter>, outbox: &[Letter]) -> Self {
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
                self.window.answered(1, Verdict::Accepted),
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
                    let culprit = self.window.broke();
                    self.outbox.retain(|key| Some(*key) != culprit);
                    self.dead.extend(culprit);
                    return;
                }
                for (index, key) in sent.iter().enumerate() {
                    let outcome = self.window.answered(10 + index as u16, Verdict::Accepted);
                    assert_eq!(outcome, Outcome::Delivered(*key));
                    self.outbox.retain(|other| other != key);
                    self.delivered.push(*key);
                }
            }
        }
    }

    #[test]
    fn a_poisonous_message_blocks_nothing_and_only_it_dies() {
        let keys: Vec<Letter> = (0..40).map(|seq| Letter::Fresh((seq, 0))).collect();
        let mut broker = Broker::new(Some(Letter::Fresh((7, 0))), &keys);
        while !broker.outbox.is_empty() {
            broker.connection();
            assert!(broker.connections < 10, "{:?}", broker.outbox);
        }
        assert_eq!(broker.dead, [Letter::Fresh((7, 0))]);
        assert_eq!(broker.delivered.len(), 39);
        let rest = keys.into_iter().filter(|key| !broker.dead.contains(key));
        assert!(broker.delivered.iter().copied().eq(rest), "order is kept");
    }

    #[test]
    fn a_broken_connection_strikes_only_with_proof_and_alone() {
        struct Case {
            proof: bool,
            sent: &'static [Letter],
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
                    window.answered(1, Verdict::Accepted);
                }
                case.sent
                    .iter()
                    .for_each(|key| window.handed(Item::Durable(*key)));
                died |= window.broke().is_some();
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
        assert_eq!(window.broke(), None);
        assert!(!window.admits(A), "no proof yet");
        assert!(window.admits(C), "not a suspect");
        window.handed(Item::Presence("state"));
        window.published(1);
        window.answered(1, Verdict::Accepted);
        assert!(window.admits(A));
        window.handed(Item::Durable(A));
        assert!(
            !window.admits(B) && !window.admits(C),
            "a suspect flies alone"
        );
        window.published(2);
        assert_eq!(window.answered(2, Verdict::Accepted), Outcome::Delivered(A));
        assert!(window.admits(B) && window.admits(A), "acquitted");
    }

    #[test]
    fn answers() {
        struct Case {
            item: Item,
            verdict: Verdict,
            expected: Outcome,
        }
        let durable = Item::Durable(A);
        let presence = Item::Presence("state");
        let case = |item, verdict, expected| Case {
            item,
            verdict,
            expected,
        };
        let cases = [
            case(durable, Verdict::Accepted, Outcome::Delivered(A)),
            case(durable, Verdict::Unheard, Outcome::Unheard(A)),
            case(durable, Verdict::Refused("no"), Outcome::Refused(A, "no")),
            case(durable, Verdict::Invalid("no"), Outcome::Invalid(A, "no")),
            case(presence, Verdict::Accepted, Outcome::Presence),
            case(presence, Verdict::Unheard, Outcome::Presence),
            case(
                presence,
                Verdict::Refused("no"),
                Outcome::PresenceRefused("state", "no"),
            ),
            case(
                presence,
                Verdict::Invalid("no"),
                Outcome::PresenceRefused("state", "no"),
            ),
        ];
        for case in cases {
            let mut window = Window::new(1, 4);
            window.handed(case.item);
            assert!(!window.admits(B), "the window is full");
            window.published(5);
            assert_eq!(window.answered(6, case.verdict), Outcome::Unknown);
            assert_eq!(window.answered(5, case.verdict), case.expected);
            assert_eq!(
                window.answered(5, case.verdict),
                Outcome::Unknown,
                "answered once"
            );
        }
    }

    #[test]
    fn a_refusal_makes_room_and_proves_the_connection() {
        let mut window = Window::new(1, 4);
        window.handed(Item::Durable(A));
        assert_eq!(window.broke(), None);
        assert!(!window.admits(A), "a suspect without proof");
        window.handed(Item::Presence("state"));
        window.published(1);
        window.answered(1, Verdict::Refused("no"));
        assert!(window.admits(A), "an answer of any kind is proof");
        window.handed(Item::Durable(A));
        assert!(window.holds(A) && !window.holds(B));
        window.published(2);
        assert_eq!(
            window.answered(2, Verdict::Refused("no")),
            Outcome::Refused(A, "no")
        );
        assert!(!window.holds(A));
        assert!(window.admits(B), "what is behind goes on");
        assert!(window.admits(A), "the broker answered it: no suspect");
    }

    #[test]
    fn silence_strikes_nobody() {
        let mut window = Window::new(16, 1);
        for _ in 0..9 {
            window.handed(Item::Presence("state"));
            window.published(1);
            window.answered(1, Verdict::Accepted);
            assert!(window.admits(A));
            window.handed(Item::Durable(A));
            window.closed();
        }
        window.handed(Item::Durable(A));
        assert_eq!(window.broke(), None, "the first break without proof");
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
        assert_eq!(window.answered(3, Verdict::Accepted), Outcome::Delivered(B));
        assert_eq!(window.answered(5, Verdict::Accepted), Outcome::Delivered(C));
        assert_eq!(window.answered(9, Verdict::Accepted), Outcome::Delivered(A));
    }
}
