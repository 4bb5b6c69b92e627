//! `scansided doctor`: after what `check` tries, what lies outside: the broker's limits and rights, the clock, how long
//! the disk takes to flush, the PACS.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::clock;
use crate::config::{Config, Version};
use crate::disk;
use crate::failure::chain;
use crate::mqtt::probe::{Probe, Retained, probe};
use crate::operate::check;
use crate::seg;
use crate::tls::credentials::{CredentialError, Credentials};
use crate::tls::expiry::{Expiries, Validity, date, validity};

/// What was found.
enum Finding {
    Good(String),
    /// It works, and may not later.
    Doubtful(String),
    Bad(String),
}

/// Flushes that are timed.
const N_FLUSHES: usize = 32;
/// Every accepted image waits for two or three.
const SLOW_FLUSH: Duration = Duration::from_millis(100);
/// Prints a line for each thing; false when one does not work.
pub async fn doctor(path: &Path, out: &mut impl Write) -> io::Result<bool> {
    let mut good = check::check(path, out)?;
    let Ok(config) = Config::read(path) else {
        return Ok(false);
    };
    let credentials = Credentials::load(&config);
    let mut findings = vec![broker(&config, &credentials).await];
    if let Ok(credentials) = &credentials {
        findings.extend(certificates(&credentials.expiries, SystemTime::now()));
    }
    findings.push(clock_is_set());
    let state = &config.state.directory;
    findings.push(flushes(state));
    findings.extend(room(state, config.state.min_free_bytes));
    findings.extend(
        config
            .seg
            .iter()
            .filter_map(seg::echo)
            .map(|pacs| match pacs {
                Ok(words) => Finding::Good(words),
                Err(words) => Finding::Bad(words),
            }),
    );
    for finding in findings {
        match finding {
            Finding::Good(words) => writeln!(out, "ok    {words}")?,
            Finding::Doubtful(words) => writeln!(out, "note  {words}")?,
            Finding::Bad(words) => {
                good = false;
                writeln!(out, "FAIL  {words}")?;
            }
        }
    }
    Ok(good)
}

async fn broker(config: &Config, credentials: &Result<Credentials, CredentialError>) -> Finding {
    let place = format!("broker {}:{}", config.mqtt.host, config.mqtt.port);
    let credentials = match credentials {
        Ok(credentials) => credentials,
        Err(error) => return Finding::Bad(format!("{place}: {}", chain(error))),
    };
    match probe(config, &credentials.mqtt).await {
        Ok(probe) => judge(&place, probe, config),
        Err(words) => Finding::Bad(format!("{place}: {words}")),
    }
}

/// What is beside the mask in a result, roughly.
const RESULT_BYTES: usize = 2048;

fn judge(place: &str, probe: Probe, config: &Config) -> Finding {
    let Probe {
        protocol,
        packet_max_bytes,
        receive_max,
        round_trip,
        retained,
    } = probe;
    let (ms, in_flight) = (
        round_trip.as_millis(),
        receive_max.min(config.mqtt.window_max_messages),
    );
    if protocol == Version::Three {
        let words = format!("{place}: MQTT 3.1.1, PUBACK after {ms} ms, {in_flight} in flight");
        return judge_three(&words, retained);
    }
    let words = format!(
        "{place}: MQTT 5, QoS 1 and retained messages, PUBACK after {ms} ms, packets up to {packet_max_bytes} \
         bytes, {in_flight} in flight"
    );
    if packet_max_bytes < config.mqtt.inline_max_bytes + RESULT_BYTES {
        return Finding::Doubtful(format!(
            "{words}; masks above that go in parts: lower `mqtt.inline_max_bytes` or raise the broker's limit \
             (mosquitto: max_packet_size)"
        ));
    }
    Finding::Good(format!(
        "{words}; what it keeps for a subscriber that is away it does not say (mosquitto: max_queued_messages, \
         1000)"
    ))
}

/// A broker that says little.
fn judge_three(words: &str, retained: Retained) -> Finding {
    let missing = Version::Three.missing().join(", ");
    let missing = format!(
        "missing in 3.1.1: {missing}; it does not say what it refuses, so let this user write below \
         `<base>/v1/<node>/` and see that its packet limit is above `mqtt.inline_max_bytes`"
    );
    match retained {
        Retained::Kept => Finding::Doubtful(format!("{words}, retained messages; {missing}")),
        Retained::Unreadable => Finding::Doubtful(format!(
            "{words}; whether it retains is unknown, as this user may not read there; {missing}"
        )),
        Retained::Gone => Finding::Bad(format!(
            "{words}; it acknowledged a retained message and did not give it back: turn retained messages on \
             there (`availability`, `state` and `info` are some), or let this user write below \
             `<base>/v1/<node>/`; {missing}"
        )),
    }
}

/// Of each file, the first that ends.
fn certificates(expiries: &Expiries, now: SystemTime) -> impl Iterator<Item = Finding> {
    const REMEDY: &str = "renew it, then `systemctl reload scansided`";
    expiries.iter().map(move |(path, end)| {
        let (file, date) = (path.display(), date(end));
        match validity(end, now) {
            Validity::Good => Finding::Good(format!("certificate {file}: good until {date}")),
            Validity::Soon => Finding::Doubtful(format!(
                "certificate {file}: it expires on {date}; {REMEDY}"
            )),
            Validity::Over => Finding::Bad(format!(
                "certificate {file}: it expired on {date}; {REMEDY}"
            )),
        }
    })
}

fn clock_is_set() -> Finding {
    if clock::now().as_str() < clock::PAST {
        return Finding::Bad("clock: it is before 2026; times in results will be wrong".into());
    }
    let asked = Command::new("timedatectl")
        .args(["show", "--property=NTPSynchronized", "--value"])
        .output();
    let said = asked.ok().filter(|output| output.status.success());
    match said.as_ref().map(|output| output.stdout.trim_ascii()) {
        Some(b"yes") => Finding::Good("clock: synchronized".into()),
        Some(b"no") => Finding::Doubtful(
            "clock: not synchronized; results carry its time, certificates are judged by it: set up NTP".into(),
        ),
        _ => Finding::Doubtful(
            "clock: whether it is synchronized is unknown here (timedatectl does not say)".into(),
        ),
    }
}

/// Times flushes of a block, as the outbox makes them.
fn flushes(state: &Path) -> Finding {
    let path = state.join(".scansided-doctor");
    let timed = time_flushes(&path);
    // Only in the way.
    let _ = fs::remove_file(&path);
    match timed {
        Ok(times) => {
            let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let words = format!(
                "disk: a flush takes {:.1} ms, {:.1} ms at most of {N_FLUSHES}",
                ms(median),
                ms(slowest)
            );
            if median > SLOW_FLUSH {
                return Finding::Doubtful(format!(
                    "{words}; every accepted image waits for several: use a disk of its own"
                ));
            }
            Finding::Good(words)
        }
        Err(error) => Finding::Bad(format!(
            "disk: cannot write and flush in {}: {error}",
            state.display()
        )),
    }
}

/// Ascending.
fn time_flushes(path: &Path) -> io::Result<Vec<Duration>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    let mut times = Vec::new();
    for number in 0..N_FLUSHES {
        let start = std::time::Instant::now();
        file.write_all_at(&[number as u8; 4096], 4096 * number as u64)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times)
}

fn room(state: &Path, min_free_bytes: u64) -> Option<Finding> {
    /// Each image is a file, for a while.
    const FEW_FILES: u64 = 10_000;
    let (bytes, files) = (disk::free_bytes(state)?, disk::free_files(state)?);
    let words = format!(
        "disk: {} MiB and {files} files free",
        bytes.saturating_sub(min_free_bytes) >> 20
    );
    // File systems that make them as they need report none.
    if files > 0 && files < FEW_FILES {
        return Some(Finding::Doubtful(format!(
            "{words}; each accepted image is one"
        )));
    }
    Some(Finding::Good(format!("{words} above the watermark")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(finding: &Finding) -> (&'static str, &str) {
        match finding {
            Finding::Good(words) => ("ok", words),
            Finding::Doubtful(words) => ("note", words),
            Finding::Bad(words) => ("FAIL", words),
        }
    }

    #[test]
    fn a_broker_with_small_packets_is_noted() {
        let text = "node = \"box\"\n[model]\nbundle = \"b\"\n[state]\ndirectory = \"s\"\n[[folder]]\nname = \"i\"\n\
                    directory = \"i\"\n[mqtt]\nhost = \"127.0.0.1\"\n";
        let config = Config::parse(text, Path::new("daemon.toml")).unwrap();
        let probe = Probe {
            packet_max_bytes: 1 << 20,
            receive_max: 20,
            protocol: Version::Five,
            round_trip: Duration::from_millis(3),
            retained: Retained::Kept,
        };
        let finding = judge("broker b:1883", probe, &config);
        let (word, said) = words(&finding);
        assert_eq!(word, "ok", "{said}");
        let small = Probe {
            packet_max_bytes: 1000,
            ..probe
        };
        let finding = judge("broker b:1883", small, &config);
        let (word, said) = words(&finding);
        assert_eq!(word, "note");
        assert!(said.contains("packets up to 1000 bytes"), "{said}");
    }

    #[test]
    fn a_broker_without_mqtt_5_is_noted_and_one_that_retains_nothing_fails() {
        let finding = judge_three("broker b:1883: MQTT 3.1.1", Retained::Kept);
        let (word, said) = words(&finding);
        assert_eq!(word, "note");
        assert!(said.contains("refusal_reasons"), "{said}");
        let finding = judge_three("broker b:1883: MQTT 3.1.1", Retained::Gone);
        let (word, said) = words(&finding);
        assert_eq!(word, "FAIL");
        assert!(said.contains("turn retained messages on"), "{said}");
    }

    #[test]
    fn a_disk_is_timed_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let finding = flushes(folder.path());
        assert!(words(&finding).1.contains("a flush takes"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let finding = flushes(Path::new("/nowhere"));
        assert_eq!(words(&finding).0, "FAIL");
    }
}
