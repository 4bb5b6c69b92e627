//! Brokers that are not what one would wish: without MQTT 5, without retained messages, without QoS 1, behind
//! TLS, or with another box of the same name.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::Duration;

use serde_json::{Value, json};

use crate::certificates::Authority;
use crate::http;
use crate::script::packet;
use crate::site::{Site, mosquitto};
use crate::station::{PATIENCE, Station, free_port, wait_for};
use crate::{a_kill_amid_a_stream, an_outage_amid_a_stream, kills_of_the_daemon, tls};

/// What a broker without MQTT 5 does with a CONNECT of it.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// CONNACK in 3.1.1's form, as aedes.
    Refuses,
    Closes,
    /// Says nothing where there is a will and refuses otherwise, as amqtt.
    Chokes,
    Mute,
    /// It was upgraded.
    Speaks,
}

/// mosquitto made to look like a broker without MQTT 5: what begins with 3.1.1 is handed on.
struct Old {
    manner: Arc<Mutex<Manner>>,
    port: u16,
}

impl Old {
    fn before(broker: u16, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let manner = Arc::new(Mutex::new(manner));
        let shared = Arc::clone(&manner);
        thread::spawn(move || {
            for client in listener.incoming() {
                let manner = *shared.lock().unwrap();
                // Either end may go at any byte.
                thread::spawn(move || serve(client?, broker, manner));
            }
        });
        Self { manner, port }
    }

    /// A site whose daemon comes by here, and whose subscriber does not.
    fn site(manner: Manner, broker_extra: &str, mqtt_extra: &str) -> (Self, Site) {
        let broker = free_port();
        let old = Self::before(broker, manner);
        let site = Site::with(Station::new(old.port, mqtt_extra), broker, broker_extra);
        (old, site)
    }
}

fn serve(mut client: TcpStream, broker: u16, manner: Manner) -> std::io::Result<()> {
    let (header, body) = packet(&mut client)?;
    let (level, has_will) = (body[6], body[7] & 4 != 0);
    if level == 5 && manner != Manner::Speaks {
        let mute = manner == Manner::Mute || manner == Manner::Chokes && has_will;
        if mute {
            // Until the client gives up.
            client.read_exact(&mut [0])?;
        } else if manner != Manner::Closes {
            client.write_all(&[0x20, 2, 0, 1])?;
        }
        return Ok(());
    }
    let mut server = TcpStream::connect(("127.0.0.1", broker))?;
    server.write_all(&[header, body.len() as u8])?;
    server.write_all(&body)?;
    let (mut back, mut forth) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut back, &mut forth);
        let _ = forth.shutdown(Shutdown::Both);
    });
    std::io::copy(&mut client, &mut server)?;
    server.shutdown(Shutdown::Both)
}

fn protocol(site: &Site) -> Value {
    site.retained("info")["protocol"].clone()
}

#[test]
fn a_broker_without_mqtt_5_is_away() {
    if mosquitto().is_some() {
        let (_old, site) = Old::site(Manner::Refuses, "", "");
        an_outage_amid_a_stream(site);
    }
}

#[test]
fn a_broker_without_mqtt_5_hangs_and_is_killed() {
    if mosquitto().is_some() {
        let (_old, site) = Old::site(Manner::Refuses, "log_type all", "");
        a_kill_amid_a_stream(site);
    }
}

#[test]
fn the_daemon_of_a_broker_without_mqtt_5_is_killed() {
    if mosquitto().is_some() {
        let (_old, site) = Old::site(Manner::Refuses, "", "");
        kills_of_the_daemon(site);
    }
}

#[test]
fn what_is_missing_without_mqtt_5_is_said() {
    if mosquitto().is_none() {
        return;
    }
    for manner in [
        Manner::Refuses,
        Manner::Closes,
        Manner::Chokes,
        Manner::Mute,
    ] {
        let (old, site) = Old::site(manner, "", "");
        site.station.drop_image(0);
        site.wait_for_results(1);
        let info = site.retained("info");
        assert_eq!(info["protocol"], "3.1.1");
        let missing = info["missing"].as_array().unwrap();
        for word in ["refusal_reasons", "packet_limit", "response_topic"] {
            assert!(missing.contains(&word.into()), "{missing:?}");
        }
        let (code, said) = site.station.ask(&["doctor"]);
        let line = said.lines().find(|line| line.contains("broker 127"));
        let line = line.unwrap_or_else(|| panic!("{said}"));
        assert!(
            line.starts_with("note") && line.contains("MQTT 3.1.1"),
            "{line}"
        );
        assert!(line.contains("retained messages; missing"), "{line}");
        assert_eq!(code, 0, "{said}");
        // The next broker has it.
        *old.manner.lock().unwrap() = Manner::Speaks;
        let mut site = site;
        site.broker.signal("-TERM");
        site.broker.0.wait().unwrap();
        site.restart_broker();
        wait_for("MQTT 5", PATIENCE, || protocol(&site) == "5");
        assert_eq!(site.retained("info")["missing"], json!([]));
        site.settle(1, 0);
    }
}

#[test]
fn a_broker_with_mqtt_5_keeps_it_though_it_hangs_at_first() {
    if mosquitto().is_none() {
        return;
    }
    let mut site = Site::new("", "");
    site.station.wait_for_word("connected to the broker");
    site.station.kill_daemon();
    site.broker.signal("-STOP");
    site.station.start_daemon();
    site.station.drop_image(0);
    // Two seconds for MQTT 5, two to ask, and then 3.1.1.
    sleep(Duration::from_secs(6));
    site.broker.signal("-CONT");
    site.wait_for_results(1);
    assert_eq!(protocol(&site), "5", "{}", site.station.log());
    site.settle(1, 0);
}

#[test]
fn a_broker_without_mqtt_5_is_refused_where_nothing_else_is_allowed() {
    if mosquitto().is_none() {
        return;
    }
    let (old, site) = Old::site(Manner::Refuses, "", "protocol = \"5\"");
    site.station
        .wait_for_word("the broker does not speak MQTT 5");
    site.station.wait_for_word("set it to \\\"auto\\\"");
    *old.manner.lock().unwrap() = Manner::Speaks;
    site.station.drop_image(0);
    site.wait_for_results(1);
    site.settle(1, 0);
}

/// Many at once: this MQTT has no receive maximum.
#[test]
fn requests_come_without_mqtt_5() {
    const IMAGES: usize = 30;
    if mosquitto().is_none() {
        return;
    }
    let extra = "requests = [\"replay\", \"segment\"]\nrequest_max_bytes = 2000";
    let (_old, site) = Old::site(Manner::Refuses, "", extra);
    site.station.wait_for_word("requests are taken");
    let ask = |verb: &str, more: &[&str]| {
        let mut publish = Command::new("mosquitto_pub");
        publish.args(["-p", &site.port().to_string(), "-q", "1"]);
        publish.args(["-t", &format!("scanside/v1/box-1/request/{verb}")]);
        assert!(publish.args(more).status().unwrap().success());
    };
    let hear = |count: &str| {
        let mut hear = Command::new("mosquitto_sub");
        hear.args([
            "-p",
            &site.port().to_string(),
            "-q",
            "1",
            "-i",
            "viewer",
            "-c",
        ]);
        hear.args([
            "-t",
            "scanside/v1/box-1/response/#",
            "-C",
            count,
            "-W",
            "60",
        ]);
        hear
    };
    assert!(hear("1").arg("-E").status().unwrap().success());
    site.station.signal_daemon("-STOP");
    for number in 0..IMAGES {
        let file = site.station.image_file(number);
        ask("segment", &["-f", file.to_str().unwrap()]);
    }
    site.station.signal_daemon("-CONT");
    site.wait_for_results(IMAGES);
    let output = hear(&IMAGES.to_string()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let all = text
        .lines()
        .filter(|line| line.contains("\"status\":\"ok\""));
    assert_eq!(all.count(), IMAGES, "{text}\n{}", site.station.log());

    site.station.wait_until_published();
    let first = site.lines.lock().unwrap().len();
    ask("replay", &["-m", "{\"from_seq\":1}"]);
    wait_for("the replay", PATIENCE, || {
        site.lines.lock().unwrap().len() >= first + IMAGES
    });
    let again = site.lines.lock().unwrap()[first..].to_vec();
    for line in again {
        let result: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(result["replay"], true, "{line}");
    }
    // It was asked for at some time, and the broker gives it to whoever comes.
    site.settle(IMAGES, 0);
}

/// Words in the log and from `doctor`; then the broker has it after all.
fn is_said_and_healed(broker_extra: &str, words: &[&str]) -> Site {
    let door = free_port();
    let mut site = Site::with_broker(broker_extra, &http::section(door));
    site.station.drop_image(0);
    let needed = [&["until an operator helps"], words].concat();
    wait_for("the words", PATIENCE, || site.station.said(&needed) > 0);
    let (code, said) = site.station.ask(&["doctor"]);
    let line = said.lines().find(|line| line.contains("broker 127"));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    assert!(line.starts_with("FAIL") && code != 0, "{line}");
    assert!(words.iter().all(|word| line.contains(word)), "{line}");
    let (_, ready) = http::get(door, "/readyz").unwrap();
    for part in [&["\"state\":\"error\"", "mqtt_refused"], words].concat() {
        assert!(ready.contains(part), "{part}: {ready}");
    }
    site.change_broker("");
    site
}

#[test]
fn a_broker_without_retained_messages_is_told_which_setting_it_needs() {
    if mosquitto().is_some() {
        let words = ["retained messages", "retain_available true"];
        is_said_and_healed("retain_available false", &words).settle(1, 0);
    }
}

#[test]
fn a_broker_without_qos_1_is_told_which_setting_it_needs() {
    if mosquitto().is_some() {
        let mut site = is_said_and_healed("max_qos 0", &["QoS 1", "max_qos"]);
        // The subscriber was granted QoS 0 and may have missed it.
        let ledger = site.station.close();
        assert!(ledger.contains("published 1 + pending 0"), "{ledger}");
    }
}

#[test]
fn plain_mqtt_at_a_port_for_tls_is_named() {
    if mosquitto().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "authority");
    let broker = authority.vouch("broker");
    let port = free_port();
    let site = Site::at(port, &tls::listener(port, &authority, &broker), "");
    let words = ["the broker's port answers in TLS", "[mqtt.tls]"];
    wait_for("the words", PATIENCE, || site.station.said(&words) > 0);
}

/// Its limit is not known: what is above it ends in quarantine, and `inline_max_bytes` is the remedy.
#[test]
fn results_above_the_limit_of_a_broker_without_mqtt_5_block_no_other() {
    if mosquitto().is_none() {
        return;
    }
    // The masks of these images take about 1300 bytes, the rest of a result 900.
    let limit = "max_packet_size 1500";
    let (_old, mut site) = Old::site(Manner::Refuses, limit, "strikes_max = 2");
    site.station.drop_striped_image(100, 160);
    (0..10).for_each(|number| site.station.drop_image(number));
    site.wait_for_results(10);
    wait_for("the quarantine", PATIENCE, || {
        let books = site.station.ask(&["ledger", "show"]).1;
        books.contains("\"quarantined\":1")
    });
    site.station.stop_daemon();
    site.station
        .replace_in_config("strikes_max = 2", "inline_max_bytes = 1024");
    site.station.start_daemon();
    site.station.drop_striped_image(101, 160);
    site.wait_for_results(11);
    site.settle(11, 1);
}

/// Both keep all their results, and both ask for the other.
#[test]
fn two_boxes_of_one_name_ask_for_each_other() {
    if mosquitto().is_none() {
        return;
    }
    for manner in [Manner::Refuses, Manner::Speaks] {
        let (old, site) = Old::site(manner, "", "");
        let mut other = Station::new(old.port, "");
        other.start_daemon();
        for number in 0..10 {
            site.station.drop_image(number);
            other.drop_image(100 + number);
            sleep(Duration::from_millis(100));
        }
        let words = ["is there another client called box-1?"];
        for station in [&site.station, &other] {
            wait_for("the question", PATIENCE, || station.said(&words) > 0);
        }
        site.wait_for_results(20);
        let ledger = other.close();
        assert!(ledger.contains("published 10 + pending 0"), "{ledger}");
        site.settle(20, 0);
    }
}
