//! When this state directory was made, and which node works with it. Both are said once to subscribers, in the
//! transaction that notes it: numbers begin anew in the first case and change their owner in the second.

use std::fs;
use std::path::Path;

use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::{META, Outbox, OutboxError, messages, take_numbers};
use crate::clock;
use crate::outbox::job;
use crate::report::Message;
use crate::report::encode::Notice;

pub use crate::report::info::Identity;

/// `id`, `created_at`, `remains`, `node`, `node_before`, `renamed_at`.
const IDENTITY: TableDefinition<'_, &str, &str> = TableDefinition::new("identity");

impl Outbox {
    pub fn identity(&self) -> Result<Identity, OutboxError> {
        self.read(|| {
            let table = self.database.begin_read()?.open_table(IDENTITY)?;
            let text = |name: &str| {
                let row = table.get(name)?;
                Ok::<_, redb::Error>(row.map(|row| row.value().to_owned()))
            };
            Ok(Identity {
                id: text("id")?
                    .and_then(|id| id.parse().ok())
                    .unwrap_or_default(),
                created_at: text("created_at")?,
                node: text("node")?,
                node_before: text("node_before")?,
                renamed_at: text("renamed_at")?,
            })
        })
    }

    /// Notes that this node works with the directory from now on. `say`: the event about a notice, from its number.
    pub fn record_node(
        &self,
        node: &str,
        say: impl FnOnce(&Notice, u64) -> Message,
    ) -> Result<Option<Notice>, OutboxError> {
        let before = self.identity()?;
        if before.node.as_deref() == Some(node) {
            return Ok(None);
        }
        self.write(|transaction| {
            let mut table = transaction.open_table(IDENTITY)?;
            let remains = table.get("remains")?.map(|row| row.value().to_owned());
            table.insert("node", node)?;
            let next_seq = {
                let meta = transaction.open_table(META)?;
                let next = meta.get("next_seq")?;
                next.map_or(1, |value| value.value())
            };
            let notice = match (before.node, before.created_at) {
                (Some(before), _) => {
                    table.insert("node_before", &*before)?;
                    table.insert("renamed_at", &*clock::now())?;
                    Notice::Renamed { before, next_seq }
                }
                (None, Some(_)) => Notice::Created { remains },
                // An earlier version did not note the name of its node.
                (None, None) => return Ok(None),
            };
            drop(table);
            let seq = take_numbers(transaction, "next_seq", 1)?;
            messages::insert(transaction, (seq, 0), None, &say(&notice, seq))?;
            Ok(Some(notice))
        })
    }
}

/// `fresh`: the outbox was made a moment ago, and this lay there already.
pub(super) fn begin(
    transaction: &WriteTransaction,
    fresh: Option<&str>,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(IDENTITY)?;
    if table.get("id")?.is_some() {
        return Ok(());
    }
    // Fresh for every start of a process, which makes one directory.
    table.insert("id", &*job::boot_id().to_string())?;
    if let Some(remains) = fresh {
        table.insert("created_at", &*clock::now())?;
        if !remains.is_empty() {
            table.insert("remains", remains)?;
        }
    }
    Ok(())
}

/// Names what lies in a state directory that only a daemon leaves there.
pub(super) fn remains(directory: &Path) -> String {
    let holds_something = |name: &str| {
        fs::read_dir(directory.join(name)).is_ok_and(|mut entries| entries.next().is_some())
    };
    let folders = ["accepted", "quarantine", "kept"];
    let found = folders.into_iter().filter(|name| holds_something(name));
    let key = directory.join("identifiers.key").exists();
    let found = found.chain(key.then_some("identifiers.key"));
    found.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(outbox: &Outbox, node: &str) -> Option<Notice> {
        let event = |_: &Notice, seq: u64| Message {
            topic: "event".into(),
            payload: seq.to_string().into_bytes(),
        };
        outbox.record_node(node, event).unwrap()
    }

    #[test]
    fn a_new_directory_and_another_node_are_said_once() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path()).unwrap();
        let id = outbox.identity().unwrap().id;
        assert_eq!(
            said(&outbox, "box-1"),
            Some(Notice::Created { remains: None })
        );
        assert_eq!(said(&outbox, "box-1"), None);
        drop(outbox);
        let outbox = Outbox::open(folder.path()).unwrap();
        assert_eq!(said(&outbox, "box-1"), None);
        let renamed = Notice::Renamed {
            before: "box-1".into(),
            next_seq: 2,
        };
        assert_eq!(said(&outbox, "box-2"), Some(renamed));
        assert_eq!(said(&outbox, "box-2"), None);
        let payloads = outbox.messages(None, 9).unwrap().into_iter();
        let payloads: Vec<_> = payloads.map(|row| row.message.payload).collect();
        assert_eq!(payloads, [b"1", b"2"]);
        let identity = outbox.identity().unwrap();
        assert_eq!(identity.id, id);
        assert_eq!(identity.node.as_deref(), Some("box-2"));
        assert_eq!(identity.node_before.as_deref(), Some("box-1"));
        assert!(identity.created_at.is_some() && identity.renamed_at.is_some());
    }

    #[test]
    fn what_a_lost_outbox_left_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("accepted/ward")).unwrap();
        fs::create_dir(folder.path().join("kept")).unwrap();
        fs::write(folder.path().join("identifiers.key"), [7; 32]).unwrap();
        let outbox = Outbox::open(folder.path()).unwrap();
        let remains = Some("accepted, identifiers.key".to_owned());
        assert_eq!(said(&outbox, "box-1"), Some(Notice::Created { remains }));
    }

    /// The file of a version that knew no identity.
    #[test]
    fn a_directory_of_an_earlier_version_is_taken_over_without_a_word() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(folder.path()).unwrap();
        outbox
            .write(|transaction| Ok(transaction.delete_table(IDENTITY)?))
            .unwrap();
        drop(outbox);
        let outbox = Outbox::open(folder.path()).unwrap();
        assert_eq!(outbox.identity().unwrap().created_at, None);
        assert_eq!(said(&outbox, "box-1"), None);
        assert!(matches!(
            said(&outbox, "box-2"),
            Some(Notice::Renamed { .. })
        ));
    }
}
