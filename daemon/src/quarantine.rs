//! Inputs that ended without a result: the file, and `<name>.reason.json` beside it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use uuid::Uuid;

use crate::accept::{AcceptError, ShelfError, Shelves, failed, sync_folder};
use crate::clock;
use crate::encode::Speaker;
use crate::failure::{Failure, Reason};
use crate::job::Ticket;
use crate::outbox::Outbox;

#[derive(Serialize)]
struct Note<'a> {
    #[serde(flatten)]
    reason: &'a Reason,
    quarantined_at: String,
}

/// Moves `file` into quarantine under `name` with its reason. Doing it again changes nothing.
pub fn store(
    shelves: &Shelves,
    file: &Path,
    name: &str,
    reason: &Reason,
) -> Result<(), ShelfError> {
    let folder = &shelves.quarantine;
    let note = Note {
        reason,
        quarantined_at: clock::now(),
    };
    let text = serde_json::to_vec_pretty(&note).expect("a note is plain data");
    let note_path = folder.join(format!("{name}.reason.json"));
    let write = || {
        let mut note = File::create(&note_path)?;
        note.write_all(&text)?;
        note.sync_all()
    };
    write().map_err(failed("write", &note_path))?;
    match fs::rename(file, folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            fs::copy(file, folder.join(name))
                .and_then(|_| fs::remove_file(file))
                .map_err(failed("move", file))?;
        }
        // Moved by an earlier run, or the disk lost it; the reason tells which.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        moved => moved.map_err(failed("move", file))?,
    }
    sync_folder(folder)
}

/// Ends an accepted job: row and event first, then the file.
pub fn end(shelves: &Shelves, ending: &Ending<'_>) -> Result<(), AcceptError> {
    let Ending {
        outbox,
        speaker,
        ticket,
        job_id,
        failure,
    } = *ending;
    let reason = failure.reason();
    let Some(job) = outbox.job(ticket)? else {
        return Ok(());
    };
    let event = |seq| speaker.quarantined(&job, job_id, seq, &reason);
    if outbox.quarantine(ticket, &reason, event)?.is_none() {
        return Ok(());
    }
    tracing::warn!(
        ticket,
        code = reason.code,
        words = reason.words,
        "image quarantined"
    );
    store(shelves, &shelves.input(&job), &job.file, &reason)?;
    outbox.forget(ticket);
    Ok(())
}

/// A job and why it ends in quarantine.
#[derive(Debug, Clone, Copy)]
pub struct Ending<'a> {
    pub outbox: &'a Outbox,
    pub speaker: &'a Speaker,
    pub ticket: Ticket,
    pub job_id: Option<Uuid>,
    pub failure: &'a Failure,
}
