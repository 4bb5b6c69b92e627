//! Decoding with a limit of time. No decoder can be interrupted, so they run on a thread of their own, and a file that
//! takes too long is given up: its thread goes on alone until the frame it is at is done.
//!
//! At most one such thread goes on. Until it has ended, another file that takes too long is waited for, which
//! `pipeline.image_timeout_s` bounds as it bounds everything else; so there are never more than two images in memory.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use segmenter::decode::{self, DecodeError, Limits, Scan};

/// How often a file that should be given up is looked at while it cannot be.
const GIVE_UP_CHECK_INTERVAL: Duration = Duration::from_millis(100);

type Decoded = Result<Scan, DecodeError>;
type Decode = fn(&[u8], &Limits) -> Decoded;

#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    decode: Decode,
    /// It lives as long as it is in time.
    thread: Option<Thread>,
    given_up: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Thread {
    files: SyncSender<Arc<Vec<u8>>>,
    answers: Receiver<Decoded>,
    handle: JoinHandle<()>,
}

impl Decoder {
    /// Without `max_time` there is no thread.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            decode: decode::decode,
            thread: None,
            given_up: None,
        }
    }

    pub fn decode(&mut self, file: &Arc<Vec<u8>>) -> Decoded {
        let Some(limit) = self.limits.max_time else {
            return (self.decode)(file, &self.limits);
        };
        let thread = match self.thread.take() {
            Some(thread) => Ok(thread),
            None => Thread::start(self.decode, self.limits),
        };
        let thread = match thread {
            Ok(thread) => thread,
            Err(error) => {
                tracing::warn!(%error, "no thread to decode on; an image has no limit of time");
                return (self.decode)(file, &self.limits);
            }
        };
        // It waits for a file, or has panicked, which the answer will tell.
        let _ = thread.files.send(Arc::clone(file));
        let mut timeout = limit;
        loop {
            match thread.answers.recv_timeout(timeout) {
                Ok(answer) => {
                    self.thread = Some(thread);
                    return answer;
                }
                Err(RecvTimeoutError::Timeout) => timeout = GIVE_UP_CHECK_INTERVAL,
                Err(RecvTimeoutError::Disconnected) => match thread.handle.join() {
                    Err(panic) => resume_unwind(panic),
                    Ok(()) => unreachable!("it ends only when its sender of files is gone"),
                },
            }
            if self.given_up.as_ref().is_none_or(JoinHandle::is_finished) {
                self.given_up = Some(thread.handle);
                return Err(DecodeError::TooSlow { limit });
            }
        }
    }
}

impl Thread {
    fn start(decode: Decode, limits: Limits) -> std::io::Result<Self> {
        let (files, inbox) = sync_channel::<Arc<Vec<u8>>>(1);
        let (outbox, answers) = sync_channel(1);
        let run = move || {
            for file in inbox {
                if outbox.send(decode(&file, &limits)).is_err() {
                    return;
                }
            }
        };
        let handle = thread::Builder::new()
            .name("decode".to_owned())
            .spawn(run)?;
        Ok(Self {
            files,
            answers,
            handle,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use contract::Image;
    use segmenter::decode::{Format, Identifiers, Spacing};

    use super::*;

    /// Takes as many times 10 ms as its first byte says; 255 is a panic.
    fn fake(file: &[u8], _: &Limits) -> Decoded {
        let &byte = file.first().ok_or(DecodeError::Empty)?;
        assert_ne!(byte, 255, "as it was asked to");
        thread::sleep(Duration::from_millis(10) * byte.into());
        let frame = Image {
            rows: 1,
            cols: 1,
            channels: 1,
            data: vec![byte.into()],
        };
        Ok(Scan {
            frames: vec![frame],
            spacing: Spacing::default(),
            modality: None,
            format: Format::Png,
            identifiers: Identifiers::default(),
            warnings: Vec::new(),
        })
    }

    fn decoder(max_time: Option<Duration>) -> Decoder {
        let limits = Limits {
            max_time,
            ..Limits::STANDARD
        };
        Decoder {
            decode: fake,
            ..Decoder::new(limits)
        }
    }

    /// What the file said, or the code.
    fn ask(decoder: &mut Decoder, byte: u8) -> Result<f32, &'static str> {
        let answer = decoder.decode(&Arc::new(vec![byte]));
        answer
            .map(|scan| scan.frames[0].data[0])
            .map_err(|error| error.kind())
    }

    #[test]
    fn a_file_that_takes_too_long_is_given_up_and_the_next_is_decoded_at_once() {
        let mut decoder = decoder(Some(Duration::from_millis(200)));
        assert_eq!(ask(&mut decoder, 0), Ok(0.0));
        let start = Instant::now();
        assert_eq!(ask(&mut decoder, 200), Err("too_slow"));
        assert_eq!(ask(&mut decoder, 1), Ok(1.0));
        assert!(start.elapsed() < Duration::from_secs(1), "not 2 s");
        // The first is still under way: this one would end after it, and is waited for until then.
        assert_eq!(ask(&mut decoder, 254), Err("too_slow"));
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(1990), "{waited:?}");
        assert!(waited < Duration::from_millis(2600), "{waited:?}");
        assert_eq!(ask(&mut decoder, 2), Ok(2.0));
    }

    #[test]
    fn one_that_is_late_and_cannot_be_given_up_still_counts() {
        let mut decoder = decoder(Some(Duration::from_millis(100)));
        assert_eq!(ask(&mut decoder, 200), Err("too_slow"));
        assert_eq!(ask(&mut decoder, 30), Ok(30.0));
    }

    #[test]
    fn a_panic_is_the_callers_and_without_a_limit_nothing_is_given_up() {
        let mut decoder = decoder(Some(Duration::from_mins(1)));
        let mut caught = || {
            let ask = std::panic::AssertUnwindSafe(|| ask(&mut decoder, 255));
            std::panic::catch_unwind(ask).is_err()
        };
        assert!(caught());
        assert_eq!(ask(&mut decoder, 3), Ok(3.0));
        assert_eq!(ask(&mut self::decoder(None), 10), Ok(10.0));
    }
}
