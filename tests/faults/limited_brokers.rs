//! Brokers without MQTT 5, retained messages or QoS 1, brokers behind TLS, and another client of the same name.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::Duration;

use serde_json::{Value, json};

use crate::broker::{a_kill_amid_a_stream, an_outage_amid_a_stream, kills_of_the_daemon};
use crate::harness::certificates::{Authority, mosquitto_listener};
use crate::harness::daemon::Daemon;
use crate::harness::http;
use crate::harness::process::{free_port, wait_for};
use crate::harness::scripted_broker::read_packet;
use crate::harness::site::{Site, mosquitto};

/// How a broker without MQTT 5 answers a CONNECT of MQTT 5.
#[derive(Clone, Copy, PartialEq)]
enum ConnectReply {
    /// A CONNACK in the form of MQTT 3.1.1, as aedes sends it.
    Refuse,
    Close,
    /// No answer to a CONNECT with a will and a refusal otherwise, as amqtt has it.
    HangAtWill,
    Hang,
    /// The broker was upgraded to MQTT 5.
    Accept,
}

/// A proxy that makes mosquitto look like a broker without MQTT 5: connections of MQTT 3.1.1 are forwarded.
struct Mqtt311Proxy {
    reply: Arc<Mutex<ConnectReply>>,
    port: u16,
}

impl Mqtt311Proxy {
    fn start(broker: u16, reply: ConnectReply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let reply = Arc::new(Mutex::new(reply));
        let shared = Arc::clone(&reply);
        thread::spawn(move || {
            for client in listener.incoming() {
                let reply = *shared.lock().unwrap();
                // Either end may disconnect at any byte.
                thread::spawn(move || forward(client?, broker, reply));
            }
        });
        Self { reply, port }
    }

    /// A site whose daemon connects through the proxy, and whose subscriber does not.
    fn site(reply: ConnectReply, broker_extra: &str, mqtt_extra: &str) -> (Self, Site) {
        let broker = free_port();
        let proxy = Self::start(broker, reply);
        let site = Site::with(Daemon::new(proxy.port, mqtt_extra), broker, broker_extra);
        (proxy, site)
    }
}

fn forward(mut client: TcpStream, broker: u16, reply: ConnectReply) -> std::io::Result<()> {
    let (header, body) = read_packet(&mut client)?;
    let (level, has_will) = (body[6], body[7] & 4 != 0);
    if level == 5 && reply != ConnectReply::Accept {
        let hangs = reply == ConnectReply::Hang || reply == ConnectReply::HangAtWill && has_will;
        if hangs {
            // This returns when the client disconnects.
            client.read_exact(&mut [0])?;
        } else if reply != ConnectReply::Close {
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
        let (_proxy, site) = Mqtt311Proxy::site(ConnectReply::Refuse, "", "");
        an_outage_amid_a_stream(site);
    }
}

#[test]
fn a_broker_without_mqtt_5_hangs_and_is_killed() {
    if mosquitto().is_some() {
        let (_proxy, site) = Mqtt311Proxy::site(ConnectReply::Refuse, "log_type all", "");
        a_kill_amid_a_stream(site);
    }
}

#[test]
fn the_daemon_of_a_broker_without_mqtt_5_is_killed() {
    if mosquitto().is_some() {
        let (_proxy, site) = Mqtt311Proxy::site(ConnectReply::Refuse, "", "");
        kills_of_the_daemon(site);
    }
}

#[test]
fn features_missing_without_mqtt_5_are_reported() {
    if mosquitto().is_none() {
        return;
    }
    for reply in [
        ConnectReply::Refuse,
        ConnectReply::Close,
        ConnectReply::HangAtWill,
        ConnectReply::Hang,
    ] {
        let (proxy, site) = Mqtt311Proxy::site(reply, "", "");
        site.daemon.drop_image(0);
        site.wait_for_results(1);
        let info = site.retained("info");
        assert_eq!(info["protocol"], "3.1.1");
        let missing = info["missing"].as_array().unwrap();
        for word in ["refusal_reasons", "packet_limit", "response_topic"] {
            assert!(missing.contains(&word.into()), "{missing:?}");
        }
        let (code, said) = site.daemon.cli(&["doctor"]);
        let line = said.lines().find(|line| line.contains("broker 127"));
        let line = line.unwrap_or_else(|| panic!("{said}"));
        assert!(
            line.starts_with("note") && line.contains("MQTT 3.1.1"),
            "{line}"
        );
        assert!(line.contains("retained messages; missing"), "{line}");
        assert_eq!(code, 0, "{said}");
        // The broker is upgraded.
        *proxy.reply.lock().unwrap() = ConnectReply::Accept;
        let mut site = site;
        site.broker.signal("-TERM");
        site.broker.0.wait().unwrap();
        site.restart_broker();
        wait_for("MQTT 5", || protocol(&site) == "5");
        assert_eq!(site.retained("info")["missing"], json!([]));
        site.assert_published(1, 0);
    }
}

#[test]
fn a_broker_with_mqtt_5_keeps_it_though_it_hangs_at_first() {
    if mosquitto().is_none() {
        return;
    }
    let mut site = Site::new("", "");
    site.daemon.wait_for_log("connected to the broker");
    site.daemon.kill();
    site.broker.signal("-STOP");
    site.daemon.start();
    site.daemon.drop_image(0);
    // The daemon waits two seconds for MQTT 5, asks once more for two, and would then try 3.1.1.
    sleep(Duration::from_secs(6));
    site.broker.signal("-CONT");
    site.wait_for_results(1);
    assert_eq!(protocol(&site), "5", "{}", site.daemon.log());
    site.assert_published(1, 0);
}

#[test]
fn a_broker_without_mqtt_5_is_refused_where_nothing_else_is_allowed() {
    if mosquitto().is_none() {
        return;
    }
    let (proxy, site) = Mqtt311Proxy::site(ConnectReply::Refuse, "", "protocol = \"5\"");
    site.daemon.wait_for_log("the broker does not speak MQTT 5");
    site.daemon.wait_for_log("set it to \\\"auto\\\"");
    *proxy.reply.lock().unwrap() = ConnectReply::Accept;
    site.daemon.drop_image(0);
    site.wait_for_results(1);
    site.assert_published(1, 0);
}

/// Many requests arrive at once, because MQTT 3.1.1 has no receive maximum.
#[test]
fn requests_come_without_mqtt_5() {
    const IMAGES: usize = 30;
    if mosquitto().is_none() {
        return;
    }
    let extra = "requests = [\"replay\", \"segment\"]\nrequest_max_bytes = 2000";
    let (_proxy, site) = Mqtt311Proxy::site(ConnectReply::Refuse, "", extra);
    site.daemon.wait_for_log("requests are taken");
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
    site.daemon.signal("-STOP");
    for number in 0..IMAGES {
        let file = site.daemon.image_file(number);
        ask("segment", &["-f", file.to_str().unwrap()]);
    }
    site.daemon.signal("-CONT");
    site.wait_for_results(IMAGES);
    let output = hear(&IMAGES.to_string()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let all = text
        .lines()
        .filter(|line| line.contains("\"status\":\"ok\""));
    assert_eq!(all.count(), IMAGES, "{text}\n{}", site.daemon.log());

    site.daemon.wait_until_published();
    let first = site.payloads.lock().unwrap().len();
    ask("replay", &["-m", "{\"from_seq\":1}"]);
    wait_for("the replay", || {
        site.payloads.lock().unwrap().len() >= first + IMAGES
    });
    let again = site.payloads.lock().unwrap()[first..].to_vec();
    for line in again {
        let result: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(result["replay"], true, "{line}");
    }
    site.assert_published(IMAGES, 0);
}

/// Asserts that log, `doctor` and `/readyz` name the problem, and then configures the broker without it.
fn is_reported_and_recovers(broker_extra: &str, words: &[&str]) -> Site {
    let http_port = free_port();
    let mut site = Site::with_broker(broker_extra, &http::config_section(http_port));
    site.daemon.drop_image(0);
    let needed = [&["until an operator helps"], words].concat();
    wait_for("the log line", || site.daemon.n_log_lines(&needed) > 0);
    let (code, said) = site.daemon.cli(&["doctor"]);
    let line = said.lines().find(|line| line.contains("broker 127"));
    let line = line.unwrap_or_else(|| panic!("{said}"));
    assert!(line.starts_with("FAIL") && code != 0, "{line}");
    assert!(words.iter().all(|word| line.contains(word)), "{line}");
    let (_, ready) = http::get(http_port, "/readyz").unwrap();
    for part in [&["\"state\":\"error\"", "mqtt_refused"], words].concat() {
        assert!(ready.contains(part), "{part}: {ready}");
    }
    site.reconfigure_broker("");
    site
}

#[test]
fn a_broker_without_retained_messages_is_told_which_setting_it_needs() {
    if mosquitto().is_some() {
        let words = ["retained messages", "retain_available true"];
        is_reported_and_recovers("retain_available false", &words).assert_published(1, 0);
    }
}

#[test]
fn a_broker_without_qos_1_is_told_which_setting_it_needs() {
    if mosquitto().is_some() {
        let mut site = is_reported_and_recovers("max_qos 0", &["QoS 1", "max_qos"]);
        // The subscriber was granted QoS 0 and may have missed it.
        let ledger = site.daemon.drain();
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
    let broker = authority.issue("broker");
    let port = free_port();
    let site = Site::at(port, &mosquitto_listener(port, &authority, &broker), "");
    let words = ["the broker's port answers in TLS", "[mqtt.tls]"];
    wait_for("the log line", || site.daemon.n_log_lines(&words) > 0);
}

/// MQTT 3.1.1 does not announce the limit: a larger message ends in quarantine, and `inline_max_bytes` is the remedy.
#[test]
fn results_above_the_limit_of_a_broker_without_mqtt_5_block_no_other() {
    if mosquitto().is_none() {
        return;
    }
    // The masks of these images take about 1300 bytes, the rest of a result 900.
    let limit = "max_packet_size 1500";
    let (_proxy, mut site) = Mqtt311Proxy::site(ConnectReply::Refuse, limit, "strikes_max = 2");
    site.daemon.drop_striped_image(100, 160);
    (0..10).for_each(|number| site.daemon.drop_image(number));
    site.wait_for_results(10);
    wait_for("the quarantine", || {
        let ledger = site.daemon.cli(&["ledger", "show"]).1;
        ledger.contains("\"quarantined\":1")
    });
    site.daemon.stop();
    site.daemon
        .replace_in_config("strikes_max = 2", "inline_max_bytes = 1024");
    site.daemon.start();
    site.daemon.drop_striped_image(101, 160);
    site.wait_for_results(11);
    site.assert_published(11, 1);
}

/// Both publish all their results, and both log that another client may have their name.
#[test]
fn two_clients_of_one_name_are_reported_by_both() {
    if mosquitto().is_none() {
        return;
    }
    for reply in [ConnectReply::Refuse, ConnectReply::Accept] {
        let (proxy, site) = Mqtt311Proxy::site(reply, "", "");
        let mut other = Daemon::new(proxy.port, "");
        other.start();
        for number in 0..10 {
            site.daemon.drop_image(number);
            other.drop_image(100 + number);
            sleep(Duration::from_millis(100));
        }
        let words = ["is there another client called box-1?"];
        for daemon in [&site.daemon, &other] {
            wait_for("the log line", || daemon.n_log_lines(&words) > 0);
        }
        site.wait_for_results(20);
        let ledger = other.drain();
        assert!(ledger.contains("published 10 + pending 0"), "{ledger}");
        site.assert_published(20, 0);
    }
}
