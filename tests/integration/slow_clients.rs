//! Clients that mean harm by being slow: many of them, and the server answers everybody else as before.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::{Served, example};

const CLIENTS: usize = 300;
const PATIENCE: Duration = Duration::from_secs(30);

fn connect(served: &Served) -> TcpStream {
    let stream = TcpStream::connect(served.server.url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What the server said last; it has ended the connection.
fn last_words(mut stream: TcpStream) -> String {
    let mut said = Vec::new();
    // a connection that is reset is ended, too
    let _ = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn slow_heads_and_bodies_of_one_byte_do_nothing() {
    let served = Served::start(&["--head-seconds-max", "2", "--body-seconds-max", "2", "--workers", "0"]);
    let begun = Instant::now();
    let post = "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/yaml\r\n";
    let mut slow: Vec<TcpStream> = (0..CLIENTS)
        .map(|at| {
            let mut stream = connect(&served);
            let head = match at % 3 {
                // slowloris: a header more now and then, and never the last
                0 => "GET /v1/jobs HTTP/1.1\r\nhost: localhost\r\n".to_owned(),
                1 => format!("{post}content-length: 1000\r\n\r\n"),
                _ => format!("{post}transfer-encoding: chunked\r\n\r\n"),
            };
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    // whoever is not slow is answered all the while
    let client = served.client();
    let mut answered = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        client.submit(example("linear.yml"), &[]).await.unwrap();
        answered += 1;
        for (at, stream) in slow.iter_mut().enumerate() {
            let byte = match at % 3 {
                0 => "x-more: 1\r\n",
                1 => "a",
                _ => "1\r\na\r\n",
            };
            // one that was ended takes nothing
            let _ = stream.write_all(byte.as_bytes());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(answered > 0);
    for (at, stream) in slow.into_iter().enumerate() {
        let said = last_words(stream);
        let status = said.split(' ').nth(1).unwrap_or_default();
        // what was written after the answer may have reset the connection before it was read
        assert!(["", "408"].contains(&status), "{at}: {said}");
    }
    assert_eq!(client.jobs(&[("limit", "100".to_owned())]).await.unwrap()["data"].as_array().unwrap().len(), answered);
}
