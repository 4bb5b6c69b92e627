//! F6: the way to the broker breaks and stands still, again and again.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::random::Random;
use crate::site::{Site, mosquitto};
use crate::station::{Station, free_port};

/// Half a minute, with SCANSIDE_LONG ten.
fn weather() -> Duration {
    if crate::long() {
        Duration::from_mins(10)
    } else {
        Duration::from_secs(20)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Open,
    /// Takes what comes and hands on nothing.
    Lost,
    /// Takes nothing.
    Stalled,
}

struct Link {
    way: Arc<Mutex<Way>>,
    lines: Arc<Mutex<Vec<TcpStream>>>,
    n_connections: Arc<AtomicUsize>,
}

impl Link {
    /// Between `port` and the broker.
    fn start(port: u16, broker: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let link = Self {
            way: Arc::new(Mutex::new(Way::Open)),
            lines: Arc::default(),
            n_connections: Arc::default(),
        };
        let (way, lines, n) = (
            Arc::clone(&link.way),
            Arc::clone(&link.lines),
            Arc::clone(&link.n_connections),
        );
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                n.fetch_add(1, Ordering::Relaxed);
                let Ok(server) = TcpStream::connect(("127.0.0.1", broker)) else {
                    continue;
                };
                let ends = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                lines.lock().unwrap().extend(ends);
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                for (from, to) in [(client, server), back] {
                    let way = Arc::clone(&way);
                    thread::spawn(move || pump(from, to, &way));
                }
            }
        });
        link
    }

    fn set(&self, way: Way) {
        *self.way.lock().unwrap() = way;
    }

    fn cut(&self) {
        for line in self.lines.lock().unwrap().drain(..) {
            // It may be gone already.
            let _ = line.shutdown(Shutdown::Both);
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, way: &Mutex<Way>) {
    let mut bytes = [0; 4096];
    loop {
        while *way.lock().unwrap() == Way::Stalled {
            sleep(Duration::from_millis(20));
        }
        let Ok(n @ 1..) = from.read(&mut bytes) else {
            break;
        };
        if *way.lock().unwrap() == Way::Open && to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn the_link_flaps() {
    if mosquitto().is_none() {
        return;
    }
    let (port, broker) = (free_port(), free_port());
    let link = Link::start(port, broker);
    let site = Site::with(Station::new(port, ""), broker, "");
    let (start, mut random, mut images) = (Instant::now(), Random(6), 0);
    while start.elapsed() < weather() {
        for _ in 0..3 {
            site.station.drop_image(images);
            images += 1;
        }
        sleep(Duration::from_millis(200 + random.below(800)));
        match random.below(3) {
            0 => link.cut(),
            1 => {
                // What is lost is lost with its connection, as TCP has it.
                link.set(Way::Lost);
                sleep(Duration::from_millis(random.below(1000)));
                link.cut();
                link.set(Way::Open);
            }
            _ => {
                link.set(Way::Stalled);
                sleep(Duration::from_millis(random.below(1500)));
                link.set(Way::Open);
            }
        }
    }
    let connections = link.n_connections.load(Ordering::Relaxed);
    let seconds = start.elapsed().as_secs() as usize;
    assert!(
        connections <= seconds + 2,
        "{connections} connections in {seconds} s are a busy loop"
    );
    site.station.wait_for_word("ready");
    site.settle(images, 0);
    eprintln!("{connections} connections in {seconds} s");
}
