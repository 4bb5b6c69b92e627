//! `scansided ledger show JOB`: the life of one job in words.

use std::io::{self, Write};

use crate::failure::Reason;
use crate::outbox::{Life, Phase, Sent};

pub(super) fn tell(life: &Life, out: &mut impl Write) -> io::Result<()> {
    let Life { job, source, .. } = life;
    let state = match life.state {
        Phase::Accepted => "waits for the inference thread",
        Phase::InHand => "in the hands of the inference thread, or was when the process ended",
        Phase::Inferred => "segmented, waits for the broker",
        Phase::Published => "published",
        Phase::Quarantined => "in quarantine",
        Phase::Dropped => "dropped out of quarantine",
    };
    writeln!(
        out,
        "job {job} from {source}: {state}, since {}",
        life.since
    )?;
    let door = if life.refused { "refused" } else { "accepted" };
    writeln!(out, "{door} at {}", life.accepted_at)?;
    if let Some(input) = &life.input {
        writeln!(out, "{} bytes, sha256 {}", input.bytes, input.sha256)?;
    }
    writeln!(out, "attempts {}", life.attempts)?;
    for sent in &life.messages {
        let Sent {
            topic,
            seq,
            part,
            bytes,
            acknowledged_at,
        } = sent;
        let answer = match acknowledged_at {
            Some(at) => format!("acknowledged at {at}"),
            None => "not acknowledged yet".to_owned(),
        };
        writeln!(
            out,
            "message {topic}: seq {seq}, part {part}, {bytes} bytes, {answer}"
        )?;
    }
    if let Some(reason) = &life.reason {
        let Reason {
            code,
            words,
            remedy,
        } = reason;
        let stage = reason.stage();
        writeln!(out, "quarantine: {stage}, {code}: {words}; {remedy}")?;
    }
    Ok(())
}
