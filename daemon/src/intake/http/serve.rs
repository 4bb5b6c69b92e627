//! Connections: how many, how long, and whether encrypted.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::{Context, HttpError, Peer, Port, router};
use crate::intake::{DISK_CHECK, Intake, Watermark};
use crate::shutdown::stopped;
use crate::tls;

/// After a connection could not be taken, for want of files or memory.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// A request's line and headers.
const HEAD_MAX_BYTES: usize = 16 * 1024;
/// For metrics, as a refusal's code: a connection whose TLS failed.
pub(super) const NO_TLS: &str = "tls";
/// Of what comes in plain at a port for TLS so much is thrown away, so long.
const PLAIN_MAX_BYTES: u64 = 1 << 20;
const PLAIN_PATIENCE: Duration = Duration::from_secs(2);

/// Serves until `stop`, then what is under way.
pub async fn run(
    port: Port,
    intake: Intake,
    mut stop: watch::Receiver<bool>,
) -> Result<(), HttpError> {
    let Port {
        config,
        listener,
        image_timeout,
        grace,
    } = port;
    listener.set_nonblocking(true).map_err(HttpError::Wait)?;
    let listener = TcpListener::from_std(listener).map_err(HttpError::Wait)?;
    let encrypted = config.tls.is_some();
    tracing::info!(source = config.name, listen = %config.listen, encrypted, "listening");
    let (failed, mut failures) = mpsc::channel(1);
    let places = Arc::new(Semaphore::new(config.connections_max));
    // Beside a full house of senders, probes are still answered.
    let standing = Arc::new(Semaphore::new(config.connections_max));
    let context = Arc::new(Context {
        config,
        intake,
        failed,
        stop: stop.clone(),
        image_timeout,
        grace,
        watermark: Watermark::default(),
        page: tokio::sync::Mutex::default(),
    });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            connection = listener.accept() => match connection {
                Ok((stream, _)) => {
                    let place = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
                    let (place, full) = match place(&places) {
                        Some(place) => (place, false),
                        None => match place(&standing) {
                            Some(place) => (place, true),
                            None => continue,
                        },
                    };
                    let context = Arc::clone(&context);
                    connections.spawn(async move {
                        connection_of(context, stream, full).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(source = context.config.name, %error, "a connection cannot be taken");
                    sleep(ACCEPT_RETRY_INTERVAL).await;
                }
            },
            Some(_) = connections.join_next() => {}
            Some(error) = failures.recv() => return Err(error.into()),
            () = sleep(DISK_CHECK), if context.watermark.was_low() => {
                context.watermark.is_low(&context.intake);
            }
            () = stopped(&mut stop) => break,
        }
    }
    drop(listener);
    finish(context, connections).await;
    match failures.try_recv() {
        Ok(error) => Err(error.into()),
        Err(_) => Ok(()),
    }
}

/// Waits for what is under way, for no longer than the grace period.
async fn finish(context: Arc<Context>, mut connections: JoinSet<()>) {
    let grace = context.grace;
    let under_way = async { while connections.join_next().await.is_some() {} };
    if timeout(grace, under_way).await.is_err() {
        tracing::warn!(
            source = context.config.name,
            "connections cut off, scansided stops"
        );
        connections.shutdown().await;
    }
    // A file whose client is gone ends by itself; who hears of the end may open the outbox at once.
    while Arc::strong_count(&context) > 1 {
        sleep(Duration::from_millis(5)).await;
    }
}

async fn connection_of(context: Arc<Context>, stream: TcpStream, full: bool) {
    let peer = stream.peer_addr().ok();
    let peer = Peer(peer.map(|address| address.ip().to_canonical()));
    let tls = context.intake.credentials.borrow().http.clone();
    let Some(tls) = tls else {
        return converse(context, stream, full, peer).await;
    };
    let source = context.config.name.clone();
    let patience = Duration::from_secs(context.config.idle_timeout_s);
    if timeout(patience, speaks_plain(&stream)).await == Ok(true) {
        context.intake.status.metrics.refused(&source, NO_TLS);
        tracing::warn!(
            source,
            "a client speaks plain HTTP, and this port wants https"
        );
        return send_off(stream).await;
    }
    let error = match timeout(patience, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) => return converse(context, stream, full, peer).await,
        Ok(Err(error)) => {
            tls::rustls_error(&error).map_or_else(|| error.to_string(), tls::client_words)
        }
        Err(_) => "nothing complete came in time".to_owned(),
    };
    context.intake.status.metrics.refused(&source, NO_TLS);
    tracing::warn!(source, error, "no TLS with a client");
}

/// A method is in capital letters, and a TLS record begins with a number.
async fn speaks_plain(stream: &TcpStream) -> bool {
    let mut first = [0];
    matches!(stream.peek(&mut first).await, Ok(1)) && first[0].is_ascii_uppercase()
}

/// Nothing that it sends is read as a request: it may hold a token, which was in the open.
async fn send_off(mut stream: TcpStream) {
    const WORDS: &str =
        "this port wants https: the request came without TLS, and nothing of it was kept\n";
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{WORDS}",
        WORDS.len()
    );
    let answered = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // Closed with bytes unread, the answer would not arrive.
        let mut rest = stream.take(PLAIN_MAX_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    if let Ok(Err(error)) = timeout(PLAIN_PATIENCE, answered).await {
        tracing::debug!(%error, "a plain connection ended");
    }
}

async fn converse(
    context: Arc<Context>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    full: bool,
    peer: Peer,
) {
    let patience = Duration::from_secs(context.config.idle_timeout_s);
    let mut stop = context.stop.clone();
    let lifetime = Duration::from_secs(context.config.request_timeout_s);
    let grace = context.grace;
    let service = TowerToHyperService::new(router(context, full, peer));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(HEAD_MAX_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let patience = tokio::select! {
        ended = connection.as_mut() => return told(ended),
        () = stopped(&mut stop) => grace,
        // Who keeps a connection for ever, or reads no answer, gives its place to others.
        () = sleep(lifetime) => lifetime,
    };
    connection.as_mut().graceful_shutdown();
    if let Ok(ended) = timeout(patience, connection).await {
        told(ended);
    }
}

fn told(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        // Clients leave at any byte.
        tracing::debug!(%error, "an HTTP connection ended");
    }
}
