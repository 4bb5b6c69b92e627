//! What subscribers have to know of the state directory: their numbers begin anew, or go on under another name.

use super::Encoder;
use crate::report::Message;
use crate::report::event::{Facts, Kind, StateDirectory};

/// What subscribers and operators have to know, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// `remains`: what lay there although there was no outbox.
    Created { remains: Option<String> },
    /// `next_seq`: where the numbers go on.
    Renamed { before: String, next_seq: u64 },
}

impl Encoder {
    pub fn notice(&self, notice: &Notice, seq: u64) -> Message {
        let (kind, node_before) = match notice {
            Notice::Created { .. } => (Kind::StateCreated, None),
            Notice::Renamed { before, .. } => (Kind::StateRenamed, Some(&**before)),
        };
        let (words, remedy) = notice.words(&self.node);
        let facts = Facts::StateDirectory(StateDirectory {
            node_before,
            words,
            remedy,
        });
        self.event(kind, seq, facts)
    }
}

impl Notice {
    /// What happened, and what to do if it should not have.
    pub fn words(&self, node: &str) -> (String, String) {
        match self {
            Self::Created { remains } => {
                let found = remains.as_ref().map_or(String::new(), |remains| {
                    format!(", where an earlier one left {remains}")
                });
                (
                    format!("a new state directory was made{found}: seq begins at 1, and nothing is known of earlier jobs"),
                    "if there was one before, stop scansided, mount its disk or restore it, and start again"
                        .to_owned(),
                )
            }
            Self::Renamed { before, next_seq } => (
                format!(
                    "the state directory was that of node {before}; {node} goes on with its jobs at seq {next_seq}"
                ),
                format!(
                    "if this is a copy and {before} still runs, stop one of them: both publish the same images; \
                     subscribers of {before} have to follow"
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;
    use crate::report::privacy::Privacy;

    #[test]
    fn notices_say_what_happened_and_what_to_do() {
        let encoder = Encoder {
            node: "box-2".into(),
            boot: Uuid::nil(),
            inline_max_bytes: 1000,
            privacy: Privacy::None,
        };
        let said = |notice: &Notice| -> Value {
            let message = encoder.notice(notice, 7);
            assert_eq!(message.topic, "event");
            serde_json::from_slice(&message.payload).unwrap()
        };
        let remains = Some("accepted".to_owned());
        let created = said(&Notice::Created { remains });
        assert_eq!(
            (&created["event"], &created["seq"]),
            (&"state_created".into(), &7.into())
        );
        assert!(
            created["words"]
                .as_str()
                .unwrap()
                .contains("left accepted: seq begins at 1")
        );
        assert!(created["remedy"].as_str().unwrap().contains("restore it"));
        let before = "box-1".to_owned();
        let renamed = said(&Notice::Renamed {
            before,
            next_seq: 6,
        });
        assert_eq!(
            (&renamed["event"], &renamed["node_before"]),
            (&"state_renamed".into(), &"box-1".into())
        );
        assert!(
            renamed["words"]
                .as_str()
                .unwrap()
                .contains("box-2 goes on with its jobs at seq 6")
        );
    }
}
