//! Accepts connections, within limits: how many, how long the head of a request may take, and how long a client may leave an
//! answer waiting. Beyond these a connection is closed, and whoever followed an event stream resumes it by its last id.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, http::Request};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, Sleep},
};
use tower::ServiceExt;

use crate::limits::HEAD_BYTES_MAX;
use crate::{Api, ConnectionLimits, router};

/// After an error of the listener itself, as when there are too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Requests under way have so long to be answered when the server stops.
const ANSWER_WITHIN: Duration = Duration::from_secs(75);

/// Serves until `shutdown` of the api is cancelled and the requests under way are answered.
pub async fn serve(listener: TcpListener, api: Api) -> io::Result<()> {
    let (shutdown, limits) = (api.shutdown.clone(), api.config.connections);
    let router = router(api);
    let open = Arc::new(Semaphore::new(limits.max));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = async {
            // who comes when all are taken waits in the kernel's queue
            let permit = open.clone().acquire_owned().await.expect("it is never closed");
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accepted => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = graceful.watch(connection(stream, peer, router.clone(), limits));
                tokio::spawn(async move {
                    // a client that goes away is no news
                    let _ = connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(ANSWER_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were not answered in time");
    }
    Ok(())
}

type Connection<S> = hyper::server::conn::http1::Connection<TokioIo<Patient>, S>;

fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: ConnectionLimits,
) -> Connection<
    impl hyper::service::Service<
        Request<Incoming>,
        Response = axum::response::Response,
        Error = std::convert::Infallible,
        Future: Send,
    > + Send,
> {
    // an event is a small packet that somebody waits for
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream, limits.stall)), service)
}

/// A stream that is patient with its reader, and not for ever: a write that nothing is taken of for too long is an error.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Runs while a write waits.
    waits: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, patience, waits: None }
    }

    fn of_write<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waits = None;
            return written;
        }
        let deadline = Instant::now() + self.patience;
        let waits = self.waits.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(waits.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = pin!(&mut self.stream).poll_write(cx, bytes);
        self.of_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = pin!(&mut self.stream).poll_write_vectored(cx, bytes);
        self.of_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::testing::{Fixture, PATIENCE};

    const SHORT: Duration = Duration::from_secs(1);

    async fn served(fixture: &Fixture, limits: ConnectionLimits) -> (SocketAddr, Api) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let api = fixture.api_with(limits);
        tokio::spawn(serve(listener, api.clone()));
        (address, api)
    }

    async fn said(stream: &mut TcpStream) -> String {
        let mut text = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text)).await;
        read.expect("the server ends the connection").unwrap();
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_in_time_ends_its_connection() {
        let fixture = Fixture::new().await;
        let (address, _) = served(&fixture, ConnectionLimits { head: SHORT, ..ConnectionLimits::default() }).await;
        for head in ["", "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-slow: "] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            assert!(!said(&mut stream).await.contains("200 OK"), "{head:?}");
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let answer = said(&mut stream).await;
        assert!(answer.contains("200 OK") && answer.contains("x-request-id"), "{answer}");
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_is_refused() {
        let fixture = Fixture::new().await;
        let (address, _) = served(&fixture, ConnectionLimits::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx-long: {}\r\n\r\n", "x".repeat(4 * HEAD_BYTES_MAX));
        stream.write_all(head.as_bytes()).await.unwrap();
        assert!(said(&mut stream).await.starts_with("HTTP/1.1 431 "));
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_dropped_and_resumes_by_its_last_id() {
        let fixture = Fixture::new().await;
        let (address, api) = served(&fixture, ConnectionLimits { stall: SHORT, ..ConnectionLimits::default() }).await;
        let id = fixture.submit().await;
        let lease = fixture.claim().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("GET /v1/jobs/{id}/events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // it has begun, and from here on nothing of it is taken
        stream.peek(&mut [0]).await.unwrap();
        let dropped = async {
            while api.live.streams() > 0 {
                fixture.record_long(&lease, 200_000).await;
            }
        };
        tokio::time::timeout(PATIENCE * 2, dropped).await.expect("its stream is dropped");
        let mut text = Vec::new();
        // what was on its way, until the connection is cut
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text)).await.expect("it is cut");
        let text = String::from_utf8_lossy(&text).into_owned();
        let last =
            text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().expect("some events").to_owned();
        fixture.succeed(&lease).await;
        let headers = [("accept", "text/event-stream"), ("last-event-id", last.as_str())];
        let rest = fixture.send(Method::GET, &format!("/v1/jobs/{id}/events"), &headers, "").await.frames();
        let ids: Vec<i64> = rest.iter().filter_map(|frame| frame.id.as_ref()?.parse().ok()).collect();
        assert_eq!(ids[0], last.parse::<i64>().unwrap() + 1);
        assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ids:?}");
        assert_eq!(rest.last().unwrap().event, "end");
    }

    #[tokio::test]
    async fn no_more_connections_are_taken_than_allowed() {
        let fixture = Fixture::new().await;
        let (address, _) = served(&fixture, ConnectionLimits { max: 1, ..ConnectionLimits::default() }).await;
        let ask = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(ask).await.unwrap();
        assert!(tokio::time::timeout(SHORT, second.read_u8()).await.is_err(), "it waits");
        drop(first);
        assert!(said(&mut second).await.contains("200 OK"));
    }
}
