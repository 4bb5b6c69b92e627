#!/usr/bin/env bash
# rumqttc keeps publishes of QoS 1 that were not acknowledged, and when the broker returns without the session it drops them
# all: the caller, to whom each was accepted, gets no error that names one of them.
#
# Seen with rumqttc 0.25.1, its client for MQTT 3.1.1 as for MQTT 5, without a clean start: a broker acknowledges 10 of 60
# publishes, hangs, and returns with "no session", as one does that was killed before it saved its sessions. Of 100 publishes
# that the client accepted, 50 never arrive. The error that the caller gets is that of the broken connection.
# What it means here: the outbox on disk is the truth. Its messages are forgotten on PUBACK only, and whatever was in flight
# when a connection ended is handed to the client anew.
# Needs cargo.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "hang"
version = "0.0.0"
edition = "2024"
[dependencies]
rumqttc = { version = "=0.25.1", default-features = false }
tokio = { version = "1", features = ["rt"] }
[workspace]
TOML
cat > "$folder/src/main.rs" <<'RUST'
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

const ANSWERED: usize = 10;
const BEFORE: usize = 60;
const ALL: usize = 100;

fn packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    assert!(head[1] < 0x80, "no packet of this program is longer");
    let mut body = vec![0; usize::from(head[1])];
    stream.read_exact(&mut body).unwrap();
    (head[0] >> 4, body)
}

/// Acknowledges so many publishes and tells their payloads.
fn answer(stream: &mut TcpStream, five: bool, mut left: usize, arrived: &Sender<usize>) {
    while left > 0 {
        let (kind, body) = packet(stream);
        match kind {
            // Session Present is 0 in either version.
            1 => stream.write_all(if five { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] }).unwrap(),
            3 => {
                // A topic of one character, a packet id and, in MQTT 5, no properties.
                let payload = &body[5 + usize::from(five)..];
                let number = std::str::from_utf8(payload).unwrap().parse().unwrap();
                arrived.send(number).unwrap();
                stream.write_all(&[0x40, 2, body[3], body[4]]).unwrap();
                left = if number == ALL - 1 { 0 } else { left - 1 };
            }
            12 => stream.write_all(&[0xd0, 0]).unwrap(),
            other => panic!("packet {other}"),
        }
    }
}

fn broker(listener: TcpListener, five: bool, hang_is_over: Receiver<()>, arrived: Sender<usize>) {
    let (mut stream, _) = listener.accept().unwrap();
    answer(&mut stream, five, ANSWERED, &arrived);
    // It hangs: nothing is read or answered. Then it is killed.
    hang_is_over.recv().unwrap();
    drop(stream);
    let (mut stream, _) = listener.accept().unwrap();
    answer(&mut stream, five, usize::MAX, &arrived);
}

macro_rules! run {
    ($name:literal, $five:literal, $client:path, $options:path, $session:ident, $qos:path, $event:path, $packet:path) => {{
        use {$client as Client, $event as Event, $options as Options, $packet as Packet, $qos as QoS};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (end_hang, hang_is_over) = channel();
        let (sender, arrived) = channel();
        let server = thread::spawn(move || broker(listener, $five, hang_is_over, sender));
        let mut options = Options::new("box", "127.0.0.1", port);
        options.$session(false);
        let (client, mut connection) = Client::new(options, ALL);
        let accept = |number: usize| {
            let taken = client.try_publish("t", QoS::AtLeastOnce, false, number.to_string());
            taken.expect("the client accepts it");
        };
        (0..BEFORE).for_each(accept);
        let (mut n_written, mut n_connections, mut errors) = (0, 0, Vec::new());
        while !server.is_finished() {
            match connection.poll().await {
                Ok(Event::Outgoing(rumqttc::Outgoing::Publish(_))) => {
                    n_written += 1;
                    if n_written == BEFORE {
                        end_hang.send(()).unwrap();
                    }
                }
                Ok(Event::Incoming(Packet::ConnAck(..))) => {
                    n_connections += 1;
                    if n_connections == 2 {
                        (BEFORE..ALL).for_each(accept);
                    }
                }
                Ok(_) => {}
                // The last one: the broker of this program ends.
                Err(error) => errors.push(error.to_string()),
            }
        }
        let arrived: BTreeSet<usize> = arrived.iter().collect();
        let lost: Vec<usize> = (0..ALL).filter(|number| !arrived.contains(number)).collect();
        println!("{}: accepted {ALL}, arrived {}, lost {}", $name, arrived.len(), lost.len());
        println!("  the lost ones are {:?} to {:?}; the first error: {}", lost.first(), lost.last(), errors[0]);
    }};
}

async fn run() {
    use rumqttc::v5;
    run!("MQTT 3.1.1", false, rumqttc::AsyncClient, rumqttc::MqttOptions, set_clean_session, rumqttc::QoS,
        rumqttc::Event, rumqttc::Packet);
    run!("MQTT 5", true, v5::AsyncClient, v5::MqttOptions, set_clean_start, v5::mqttbytes::QoS, v5::Event,
        v5::mqttbytes::v5::Packet);
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}
RUST
cd "$folder"
CARGO_TARGET_DIR=target timeout 1200 cargo run --quiet > seen
cat seen
for protocol in "MQTT 3.1.1" "MQTT 5"; do
    grep -qx "$protocol: accepted 100, arrived 50, lost 50" seen
done
[ "$(grep -c 'the lost ones are Some(10) to Some(59)' seen)" = 2 ]
