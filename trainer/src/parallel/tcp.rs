//! Connections of rank 0 to every other rank.
//!
//! A connection begins with `MAGIC`, rank and world size (u32 each, little endian), which rank 0 answers
//! with `MAGIC`. Then come frames: one byte for the kind, and but for `ALIVE` a length (u64) and that
//! many bytes. A thread sends `ALIVE` all the time, so that who computes for hours differs from who is
//! gone without a word (a machine that lost power, a process that was stopped).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};

use super::environment::Environment;

const MAGIC: [u8; 8] = *b"scansid1";
const ALIVE: u8 = 0;
const DATA: u8 = 1;
/// The sender stops; the data say why.
const END: u8 = 2;

const BEAT: Duration = Duration::from_secs(5);
/// After so much silence the other end is taken for dead. More than `JOIN`, before which nobody beats.
const SILENCE: Duration = Duration::from_mins(2);
/// How long a frame may make no progress; a rank may wait until rank 0 has read those before it.
const WRITE: Duration = Duration::from_mins(5);
/// How long processes wait for each other at the start.
pub(super) const JOIN: Duration = Duration::from_mins(1);
const HELLO: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// To every other rank from rank 0, in their order; from the others to rank 0. None in a group of one.
pub(super) struct Links {
    links: Arc<[Link]>,
    /// Dropped to end the thread that beats.
    _beating: Sender<()>,
}

struct Link {
    /// Of the other end.
    rank: usize,
    stream: TcpStream,
    /// Two threads write; a frame must come whole.
    writing: Mutex<()>,
}

impl Links {
    /// Waits up to `patience` until all are there.
    pub(super) fn join(environment: &Environment, patience: Duration) -> Result<Self> {
        let links = match environment {
            Environment { world: 1, .. } => Vec::new(),
            Environment { rank: 0, .. } => listen(environment, patience)?,
            _ => vec![call(environment, patience)?],
        };
        let links: Arc<[Link]> = links.into();
        let (beating, stop) = channel();
        let others = Arc::clone(&links);
        std::thread::Builder::new()
            .name("alive".into())
            .spawn(move || {
                while stop.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                    others.iter().for_each(Link::beat);
                }
            })
            .context("cannot start a thread")?;
        Ok(Self {
            links,
            _beating: beating,
        })
    }

    /// What every rank gave, in the order of ranks.
    pub(super) fn exchange(&self, rank: usize, own: String) -> Result<Vec<String>> {
        if rank > 0 {
            let first = &self.links[0];
            first.send(DATA, own.as_bytes())?;
            return Ok(serde_json::from_slice(&first.receive()?)?);
        }
        self.lead(|| {
            let mut all = vec![own];
            for link in self.links.iter() {
                all.push(String::from_utf8(link.receive()?)?);
            }
            let text = serde_json::to_vec(&all)?;
            self.links
                .iter()
                .try_for_each(|link| link.send(DATA, &text))?;
            Ok(all)
        })
    }

    /// Adds up in the order of ranks, once: everyone gets the same bits, in every run.
    pub(super) fn sum(&self, rank: usize, mut values: Vec<f32>) -> Result<Vec<f32>> {
        if rank > 0 {
            let first = &self.links[0];
            first.send(DATA, &to_bytes(&values))?;
            return from_bytes(&first.receive()?, values.len());
        }
        self.lead(|| {
            for link in self.links.iter() {
                let other = from_bytes(&link.receive()?, values.len())?;
                values.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
            }
            let bytes = to_bytes(&values);
            self.links
                .iter()
                .try_for_each(|link| link.send(DATA, &bytes))?;
            Ok(values)
        })
    }

    /// An error once somebody is gone; for those who wait for something else.
    #[cfg(feature = "nccl")]
    pub(super) fn check(&self) -> Result<()> {
        self.lead(|| self.links.iter().try_for_each(Link::check))
    }

    /// What rank 0 does for all. Its failure is everybody's, for the same reason.
    fn lead<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let done = work();
        if let Err(error) = &done {
            for link in self.links.iter() {
                // Who is gone as well needs no word.
                let _ = link.write(END, format!("{error:#}").as_bytes());
            }
        }
        done
    }
}

impl Link {
    fn new(rank: usize, stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(WRITE))?;
        let writing = Mutex::new(());
        Ok(Self {
            rank,
            stream,
            writing,
        })
    }

    fn send(&self, kind: u8, data: &[u8]) -> Result<()> {
        let Err(error) = self.write(kind, data) else {
            return Ok(());
        };
        if is_silence(&error) {
            return Err(self.lost(&error));
        }
        // What the other end said before it went is better to know.
        Err(self.receive().err().unwrap_or_else(|| self.lost(&error)))
    }

    fn write(&self, kind: u8, data: &[u8]) -> io::Result<()> {
        let _whole = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut head = vec![kind];
        head.extend((data.len() as u64).to_le_bytes());
        (&self.stream).write_all(&head)?;
        (&self.stream).write_all(data)
    }

    fn receive(&self) -> Result<Vec<u8>> {
        let read = |bytes: &mut [u8]| {
            let done = (&self.stream).read_exact(bytes);
            done.map_err(|error| self.lost(&error))
        };
        let mut kind = [ALIVE];
        while kind[0] == ALIVE {
            read(&mut kind)?;
        }
        let mut length = [0; 8];
        read(&mut length)?;
        let mut data = vec![0; u64::from_le_bytes(length) as usize];
        read(&mut data)?;
        if kind[0] == END {
            bail!("{}", String::from_utf8_lossy(&data));
        }
        Ok(data)
    }

    /// One byte is sent whole or not at all, and whoever sends something else is alive anyway. A failure
    /// shows at the next frame.
    fn beat(&self) {
        if let Ok(_whole) = self.writing.try_lock() {
            let _ = (&self.stream).write(&[ALIVE]);
        }
    }

    #[cfg(feature = "nccl")]
    fn check(&self) -> Result<()> {
        self.stream.set_nonblocking(true)?;
        let mut next = [ALIVE];
        let seen = loop {
            match self.stream.peek(&mut next) {
                Ok(1) if next[0] == ALIVE => (&self.stream).read_exact(&mut next)?,
                seen => break seen,
            }
        };
        self.stream.set_nonblocking(false)?;
        match seen {
            // The other end is done already and goes on to its next frame.
            Ok(1) if next[0] == DATA => Ok(()),
            Ok(1) => self.receive().map(|_| ()),
            Ok(_) => Err(self.lost(&ErrorKind::UnexpectedEof.into())),
            Err(error) if is_silence(&error) => Ok(()),
            Err(error) => Err(self.lost(&error)),
        }
    }

    fn lost(&self, error: &io::Error) -> Error {
        let how = if is_silence(error) {
            format!("has not been heard of for {} s", SILENCE.as_secs())
        } else {
            "has ended, and its own output says why".to_owned()
        };
        anyhow!(
            "rank {} {how}: start all processes again with --resume",
            self.rank
        )
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn from_bytes(bytes: &[u8], n_values: usize) -> Result<Vec<f32>> {
    let (values, rest) = bytes.as_chunks::<4>();
    ensure!(
        values.len() == n_values && rest.is_empty(),
        "{} bytes came instead of {n_values} values: the ranks train different networks",
        bytes.len()
    );
    Ok(values
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect())
}

/// Rank 0 waits for the others.
fn listen(environment: &Environment, patience: Duration) -> Result<Vec<Link>> {
    let (at, n_others) = (environment.meeting(), environment.world - 1);
    let listener = TcpListener::bind(&resolve(environment)?[..]).with_context(|| {
        format!(
            "rank 0 cannot listen at {at}: MASTER_ADDR must be an address of its machine, and \
             MASTER_PORT free"
        )
    })?;
    listener.set_nonblocking(true)?;
    let mut links: Vec<Option<Link>> = (0..n_others).map(|_| None).collect();
    let start = Instant::now();
    while links.iter().any(Option::is_none) {
        match listener.accept() {
            Ok((stream, from)) => greet(stream, from, environment.world, &mut links)?,
            Err(error) if is_silence(&error) => sleep(POLL),
            Err(error) => return Err(error).context("cannot accept a connection"),
        }
        let missing = links.iter().position(Option::is_none);
        if let Some(place) = missing.filter(|_| start.elapsed() > patience) {
            bail!(
                "rank {} did not come to {at} within {} s: start all {} processes",
                place + 1,
                patience.as_secs(),
                environment.world
            );
        }
    }
    Ok(links.into_iter().flatten().collect())
}

/// Takes up a rank. Who is none of us is sent away.
fn greet(
    mut stream: TcpStream,
    from: SocketAddr,
    world: usize,
    links: &mut [Option<Link>],
) -> Result<()> {
    let mut hello = [0; 16];
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(HELLO))?;
    if stream.read_exact(&mut hello).is_err() || hello[..8] != MAGIC {
        tracing::warn!(%from, "a connection that is no trainer of this version was closed");
        return Ok(());
    }
    let number = |at: usize| {
        let bytes = hello[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    };
    let (rank, its_world) = (number(8), number(12));
    ensure!(
        its_world == world,
        "rank {rank} was started with WORLD_SIZE={its_world}, rank 0 with {world}: give all the same"
    );
    let place = rank.checked_sub(1).and_then(|place| links.get_mut(place));
    let place = place.filter(|place| place.is_none());
    let place = place.with_context(|| format!("two processes say that they are rank {rank}"))?;
    stream.write_all(&MAGIC)?;
    *place = Some(Link::new(rank, stream)?);
    Ok(())
}

/// The others call rank 0 until it answers.
fn call(environment: &Environment, patience: Duration) -> Result<Link> {
    let at = environment.meeting();
    let mut hello = MAGIC.to_vec();
    for number in [environment.rank, environment.world] {
        hello.extend((number as u32).to_le_bytes());
    }
    let try_once = || -> Result<TcpStream> {
        let mut last = anyhow!("no such address");
        for address in resolve(environment)? {
            match TcpStream::connect_timeout(&address, HELLO) {
                Ok(mut stream) => {
                    let mut answer = [0; 8];
                    stream.set_read_timeout(Some(HELLO))?;
                    stream.write_all(&hello)?;
                    let answered = stream.read_exact(&mut answer).is_ok() && answer == MAGIC;
                    ensure!(answered, "who answers there does not take this rank");
                    return Ok(stream);
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    };
    let start = Instant::now();
    let mut said = false;
    loop {
        match try_once() {
            Ok(stream) => return Ok(Link::new(0, stream)?),
            Err(error) if start.elapsed() > patience => {
                return Err(error).with_context(|| {
                    format!(
                        "rank 0 cannot be reached at {at} within {} s: start it, or correct \
                         MASTER_ADDR and MASTER_PORT",
                        patience.as_secs()
                    )
                });
            }
            Err(error) => {
                if !said && start.elapsed() > HELLO {
                    tracing::warn!(at, %error, "waiting for rank 0");
                    said = true;
                }
                sleep(POLL);
            }
        }
    }
}

fn resolve(environment: &Environment) -> Result<Vec<SocketAddr>> {
    let found = (environment.address.as_str(), environment.port).to_socket_addrs();
    let found = found.with_context(|| {
        format!(
            "MASTER_ADDR is {:?}: no machine of that name is known",
            environment.address
        )
    })?;
    Ok(found.collect())
}
