//! The channels of a session, by themselves and over SPDY.

use super::*;

#[test]
fn the_end_says_what_clients_look_for() {
    let end = |code| Ok(ExecEnd { code, message: String::new() });
    assert_eq!(status(&end(0)), json!({"metadata": {}, "status": "Success"}));
    let failed = status(&end(3));
    assert_eq!(failed["reason"], "NonZeroExitCode");
    assert_eq!(failed["details"]["causes"], json!([{"reason": "ExitCode", "message": "3"}]));
    assert_eq!(status(&Err("no".into()))["reason"], "InternalError");
}

#[test]
fn a_terminal_translates_lines_and_keys() {
    assert_eq!(shown(b"a\nb", true), Bytes::from_static(b"a\r\nb"));
    assert_eq!(shown(b"a\nb", false), Bytes::from_static(b"a\nb"));
    let size = parse_size(br#"{"Width":80,"Height":24}"#);
    assert_eq!(size, Some(TerminalSize { columns: 80, rows: 24 }));
    assert_eq!(parse_size(b"wide"), None);
}

#[test]
fn a_client_opens_the_channels_that_the_request_promises() {
    let wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false, raw: false };
    assert_eq!(wanted.channels(true), [ERROR, STDIN, STDOUT, STDERR]);
    let terminal = Wanted { tty: true, ..wanted };
    assert_eq!(terminal.channels(true), [ERROR, STDIN, STDOUT, RESIZE]);
    assert_eq!(terminal.channels(false), [ERROR, STDIN, STDOUT]);
}

/// What a client of SPDY is told on its streams, until the connection ends: bytes by stream, and which
/// streams have ended.
async fn hear(client: &mut DuplexStream) -> (std::collections::BTreeMap<u32, String>, Vec<u32>) {
    let (mut said, mut ended) = (std::collections::BTreeMap::<u32, String>::new(), Vec::new());
    let mut frames = spdy::Decoder::default();
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = client.read(&mut buffer).await {
        frames.push(&buffer[..count]);
        while let Some(frame) = frames.frame().expect("frames") {
            if let spdy::Frame::Data { stream, fin, bytes } = frame {
                said.entry(stream).or_default().push_str(&String::from_utf8_lossy(&bytes));
                ended.extend(fin.then_some(stream));
            }
        }
    }
    (said, ended)
}

/// A session over SPDY of a command that says its terminal's size, what it reads, and fails with 3.
async fn session(protocol: &'static str, wanted: Wanted, send: Vec<Bytes>) -> (Vec<String>, Vec<u32>) {
    let (mut client, node) = tokio::io::duplex(PIPE);
    let work = |streams: ExecStreams| async move {
        let ExecStreams { mut stdin, mut stdout, terminal, .. } = streams;
        if let Some(mut terminal) = terminal {
            let size = terminal.wait_for(|size| size.columns > 0).await.map(|size| *size);
            let size = size.map_err(|error| error.to_string())?;
            let text = format!("{}x{} ", size.columns, size.rows);
            stdout.write_all(text.as_bytes()).await.map_err(|error| error.to_string())?;
        }
        tokio::io::copy(&mut stdin, &mut stdout).await.map_err(|error| error.to_string())?;
        Ok(ExecEnd { code: 3, message: String::new() })
    };
    let serving = serve(Connection::Spdy(Box::new(node)), protocol, wanted, work);
    let talking = async {
        for piece in send {
            client.write_all(&piece).await.expect("written");
        }
        hear(&mut client).await
    };
    let ((), (said, ended)) = tokio::join!(serving, talking);
    (said.into_iter().map(|(stream, text)| format!("{stream}:{text}")).collect(), ended)
}

fn open(client: &mut spdy::tests::Client, streams: &[&str]) -> Vec<Bytes> {
    let numbers = (1..).step_by(2);
    streams.iter().zip(numbers).map(|(kind, number)| client.open(number, &[("streamType", kind)])).collect()
}

#[tokio::test]
async fn a_client_of_spdy_has_a_stream_for_each_channel() {
    let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: true, raw: true };
    let mut client = spdy::tests::Client::default();
    let mut send = open(&mut client, &["error", "stdin", "stdout", "resize"]);
    send.push(spdy::ping(1));
    send.push(spdy::data(7, false, br#"{"Width":80,"Height":24}"#));
    // One more than was promised, and a stream that nobody has opened.
    send.push(client.open(9, &[("streamType", "stdout")]));
    send.push(spdy::data(11, false, b"?"));
    send.push(spdy::data(3, false, b"typed"));
    send.push(spdy::data(3, true, b""));
    let (said, ended) = session("v4.channel.k8s.io", wanted, send).await;
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("1:{") && said[0].contains("ExitCode"), "{said:?}");
    assert_eq!((said[1].as_str(), ended.as_slice()), ("5:80x24 typed", &[5, 1][..]));
}

#[tokio::test]
async fn older_clients_are_told_the_end_in_words() {
    let wanted = Wanted { stdin: true, stdout: true, ..Wanted::default() };
    for protocol in PROTOCOLS.spdy.iter().skip(1) {
        let mut send = open(&mut spdy::tests::Client::default(), &["error", "stdin", "stdout"]);
        send.push(spdy::data(3, true, b"all"));
        let (said, _) = session(protocol, wanted, send).await;
        let wanted = "1:command terminated with non-zero exit code: exit status 3";
        assert_eq!(said, [wanted, "5:all"], "{protocol}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_it_has_opened_all_gets_no_command() {
    let (client, node) = tokio::io::duplex(PIPE);
    drop(client);
    let wanted = Wanted { stdout: true, ..Wanted::default() };
    let work = |_: ExecStreams| async { panic!("it was run") };
    serve(Connection::Spdy(Box::new(node)), "v4.channel.k8s.io", wanted, work).await;
}
