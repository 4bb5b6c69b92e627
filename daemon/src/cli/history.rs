//! The history of one job in words, whole or in a line.

use std::io::{self, Write};

use crate::failure::Reason;
use crate::outbox::{JobHistory, Phase, Sent};

pub(super) fn write_history(history: &JobHistory, out: &mut impl Write) -> io::Result<()> {
    let JobHistory { job, source, .. } = history;
    let state = state(history.state);
    writeln!(
        out,
        "job {job} from {source}: {state}, since {}",
        history.since
    )?;
    let verdict = if history.refused {
        "refused"
    } else {
        "accepted"
    };
    writeln!(out, "{verdict} at {}", history.accepted_at)?;
    if let Some(sender) = &history.sender {
        writeln!(out, "sent by {sender}")?;
    }
    if let Some(input) = &history.input {
        writeln!(out, "{} bytes, sha256 {}", input.bytes, input.sha256)?;
    }
    if let Some(id) = &history.job_id {
        writeln!(out, "job_id {id}")?;
    }
    if let Some(hash) = &history.sop_instance_uid {
        writeln!(out, "SOP Instance UID, hashed: {hash}")?;
    }
    writeln!(out, "attempts {}", history.attempts)?;
    for sent in &history.messages {
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
    if let Some(reason) = &history.reason {
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

fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::Accepted => "waits for the inference thread",
        Phase::InHand => "in the hands of the inference thread, or was when the process ended",
        Phase::Inferred => "segmented, waits for the broker",
        Phase::Published => "published",
        Phase::Quarantined => "in quarantine",
        Phase::Dropped => "dropped out of quarantine",
    }
}

/// Number, time, source, sender, what became of it and how it is found.
pub(super) fn line(history: &JobHistory) -> String {
    let mut line = format!(
        "job {}  {}  {}",
        history.job, history.accepted_at, history.source
    );
    if let Some(sender) = &history.sender {
        line.extend(["  ", &sender.to_string()]);
    }
    line.extend(["  ", state(history.state)]);
    // A result that was tried again has the number of the last time.
    let last = history
        .messages
        .last()
        .filter(|_| history.reason.is_none() || history.state == Phase::Published);
    if let Some(sent) = last {
        line.extend([", seq ", &sent.seq.to_string()]);
    }
    if let (Some(reason), Phase::Quarantined | Phase::Dropped) = (&history.reason, history.state) {
        line.extend([": ", &reason.code]);
    }
    if let Some(input) = &history.input {
        line.extend(["  sha256 ", &input.sha256[..input.sha256.len().min(12)]]);
    }
    line
}
