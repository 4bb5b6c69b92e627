//! Fault F6: the connection to the broker is cut, loses data and stalls, again and again.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::harness::daemon::Daemon;
use crate::harness::process::free_port;
use crate::harness::random::Random;
use crate::harness::site::{Site, mosquitto};

fn duration() -> Duration {
    if crate::long() {
        Duration::from_mins(10)
    } else {
        Duration::from_secs(20)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum LinkState {
    Up,
    /// Reads and forwards nothing.
    BlackHole,
    /// Does not read.
    Stalled,
}

struct Proxy {
    state: Arc<Mutex<LinkState>>,
    sockets: Arc<Mutex<Vec<TcpStream>>>,
    n_connections: Arc<AtomicUsize>,
}

impl Proxy {
    /// Listens at `port` and forwards to the broker.
    fn start(port: u16, broker: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let proxy = Self {
            state: Arc::new(Mutex::new(LinkState::Up)),
            sockets: Arc::default(),
            n_connections: Arc::default(),
        };
        let (state, sockets, n) = (
            Arc::clone(&proxy.state),
            Arc::clone(&proxy.sockets),
            Arc::clone(&proxy.n_connections),
        );
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                n.fetch_add(1, Ordering::Relaxed);
                let Ok(server) = TcpStream::connect(("127.0.0.1", broker)) else {
                    continue;
                };
                let ends = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                sockets.lock().unwrap().extend(ends);
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                for (from, to) in [(client, server), back] {
                    let state = Arc::clone(&state);
                    thread::spawn(move || forward(from, to, &state));
                }
            }
        });
        proxy
    }

    fn set(&self, state: LinkState) {
        *self.state.lock().unwrap() = state;
    }

    fn cut(&self) {
        for socket in self.sockets.lock().unwrap().drain(..) {
            // The peer may have closed it already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, state: &Mutex<LinkState>) {
    let mut bytes = [0; 4096];
    loop {
        while *state.lock().unwrap() == LinkState::Stalled {
            sleep(Duration::from_millis(20));
        }
        let Ok(n @ 1..) = from.read(&mut bytes) else {
            break;
        };
        if *state.lock().unwrap() == LinkState::Up && to.write_all(&bytes[..n]).is_err() {
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
    let proxy = Proxy::start(port, broker);
    let site = Site::with(Daemon::new(port, ""), broker, "");
    let (start, mut random, mut images) = (Instant::now(), Random(6), 0);
    while start.elapsed() < duration() {
        for _ in 0..3 {
            site.daemon.drop_image(images);
            images += 1;
        }
        sleep(Duration::from_millis(200 + random.below(800)));
        match random.below(3) {
            0 => proxy.cut(),
            1 => {
                // TCP loses bytes only together with their connection.
                proxy.set(LinkState::BlackHole);
                sleep(Duration::from_millis(random.below(1000)));
                proxy.cut();
                proxy.set(LinkState::Up);
            }
            _ => {
                proxy.set(LinkState::Stalled);
                sleep(Duration::from_millis(random.below(1500)));
                proxy.set(LinkState::Up);
            }
        }
    }
    let connections = proxy.n_connections.load(Ordering::Relaxed);
    let seconds = start.elapsed().as_secs() as usize;
    assert!(
        connections <= seconds + 2,
        "{connections} connections in {seconds} s are a busy loop"
    );
    site.daemon.wait_for_log("ready");
    site.assert_published(images, 0);
    eprintln!("{connections} connections in {seconds} s");
}
