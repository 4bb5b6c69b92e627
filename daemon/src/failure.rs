//! What can go wrong with one image, and what that means for it: all of these end in quarantine with
//! a code, words and a remedy. What is wrong with the box itself is `outbox::OutboxError`.

use std::fmt;

use schemars::JsonSchema;
use segmenter::decode::DecodeError;
use segmenter::infer::InferError;
use serde::{Deserialize, Serialize};

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Decode(#[from] DecodeError),
    #[error("{0}")]
    Infer(#[from] InferError),
    #[error("rule {rule} of `[[route]]` sends it to no model: {reason}")]
    NotRouted { rule: usize, reason: String },
    #[error("the file of an accepted image cannot be read: {0}")]
    Input(std::io::Error),
    #[error("the program stopped {attempts} times while it worked on this image")]
    CrashLoop { attempts: u32 },
    #[error("internal error while working on this image: {message}")]
    Panic { message: String },
    #[error("the file has {bytes} bytes, the limit is {limit}")]
    FileTooLarge { bytes: u64, limit: u64 },
    #[error("a message of {bytes} bytes for this image is above the broker's limit of {limit}")]
    MessageTooLarge { bytes: usize, limit: usize },
    #[error("the connection broke {strikes} times while only this image's message was in flight")]
    Poison { strikes: u32 },
    #[error("the broker refuses this image's message: {code}")]
    Refused { code: String },
}

/// What lies beside a file in quarantine, and travels in the event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reason {
    /// Stable, for programs.
    pub code: String,
    /// What happened, for people.
    pub words: String,
    /// What to do about it.
    pub remedy: String,
}

/// Where on its way an image failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Accept,
    Decode,
    Route,
    Infer,
    Publish,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Accept => "accept",
            Self::Decode => "decode",
            Self::Route => "route",
            Self::Infer => "infer",
            Self::Publish => "publish",
        })
    }
}

impl Reason {
    /// That of [`Failure::stage`], from the code, which is all that a row keeps of the failure; the decoder's are the rest.
    pub fn stage(&self) -> Stage {
        match self.code.as_str() {
            "file_too_large" | "input_unreadable" => Stage::Accept,
            "not_routed" => Stage::Route,
            "message_too_large" | "message_breaks_connection" | "message_refused" => Stage::Publish,
            "crash_loop" | "panic" | "graph_unreadable" | "graph_broken" | "graph_input"
            | "input_length" | "inference_failed" | "output_shape" | "output_not_finite" => {
                Stage::Infer
            }
            _ => Stage::Decode,
        }
    }
}

impl Failure {
    /// Stable code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Decode(error) => error.kind(),
            Self::Infer(error) => error.kind(),
            Self::NotRouted { .. } => "not_routed",
            Self::Input(_) => "input_unreadable",
            Self::CrashLoop { .. } => "crash_loop",
            Self::Panic { .. } => "panic",
            Self::FileTooLarge { .. } => "file_too_large",
            Self::MessageTooLarge { .. } => "message_too_large",
            Self::Poison { .. } => "message_breaks_connection",
            Self::Refused { .. } => "message_refused",
        }
    }

    pub fn stage(&self) -> Stage {
        match self {
            Self::Input(_) | Self::FileTooLarge { .. } => Stage::Accept,
            Self::Decode(_) => Stage::Decode,
            Self::NotRouted { .. } => Stage::Route,
            Self::Infer(_) | Self::CrashLoop { .. } | Self::Panic { .. } => Stage::Infer,
            Self::MessageTooLarge { .. } | Self::Poison { .. } | Self::Refused { .. } => {
                Stage::Publish
            }
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::Decode(DecodeError::NoPatientImage { .. }) => {
                "let the sender leave out what is no image; drop it"
            }
            Self::Decode(DecodeError::OwnObject { .. }) => {
                "let the PACS leave out Manufacturer `Scanside` of what it sends here; what a peer sent \
                 is not kept here, a file of an inbox is"
            }
            Self::Decode(_) => "check the file at its source; put it into the inbox again",
            Self::Infer(_) => "check the bundle with `scansided check`",
            Self::NotRouted { .. } => {
                "`scansided route FILE` explains the rules; change them and retry the job, or drop it"
            }
            Self::Input(_) => "check the disk of the state directory",
            Self::CrashLoop { .. } => "segment the file alone with `scansided segment` to see why",
            Self::Panic { .. } => "report the file and the log line to the makers of scansided",
            Self::FileTooLarge { .. } => "raise `file_max_bytes` of the folder if this is an image",
            Self::MessageTooLarge { .. } => {
                "raise the broker's maximum packet size or lower `mqtt.inline_max_bytes`, \
                 then put the file into the inbox again"
            }
            Self::Poison { .. } => {
                "raise the broker's message size limit or lower `mqtt.inline_max_bytes`, then `scansided \
                 quarantine retry` it"
            }
            Self::Refused { .. } => "check the broker's log and its rules for this topic",
        }
    }

    /// What a peer sends back of our own is counted, and its file goes at once: a PACS that sends on everything would
    /// fill the quarantine with it and push out what people have to look at.
    pub fn is_own_object(&self) -> bool {
        matches!(self, Self::Decode(DecodeError::OwnObject { .. }))
    }

    pub fn reason(&self) -> Reason {
        Reason {
            code: self.code().to_owned(),
            words: chain(self),
            remedy: self.remedy().to_owned(),
        }
    }
}

/// An error and its causes in one line; a cause that the text above it says already is left out.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_stage() {
        let code = String::new;
        let cases = [
            (Failure::Decode(DecodeError::NotAnImage), Stage::Decode),
            (Failure::Infer(InferError::NotFinite), Stage::Infer),
            (Failure::CrashLoop { attempts: 3 }, Stage::Infer),
            (Failure::Panic { message: code() }, Stage::Infer),
            (
                Failure::Input(std::io::ErrorKind::NotFound.into()),
                Stage::Accept,
            ),
            (Failure::FileTooLarge { bytes: 2, limit: 1 }, Stage::Accept),
            (
                Failure::MessageTooLarge { bytes: 2, limit: 1 },
                Stage::Publish,
            ),
            (Failure::Poison { strikes: 4 }, Stage::Publish),
            (Failure::Refused { code: code() }, Stage::Publish),
            (
                Failure::NotRouted {
                    rule: 1,
                    reason: code(),
                },
                Stage::Route,
            ),
        ];
        for (failure, stage) in cases {
            assert_eq!(failure.stage(), stage, "{failure}");
            assert_eq!(failure.reason().stage(), stage, "{failure}");
        }
        let shape = InferError::OutputShape {
            found: Vec::new(),
            expected: [1; 4],
        };
        assert_eq!(Failure::Infer(shape).reason().stage(), Stage::Infer);
    }
}
