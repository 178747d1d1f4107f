use super::*;
use crate::block_options::{Aio, ImageSpec};
use crate::channel::Uri;
use crate::event_loop::input::{IDLE_DELAY, idle_delay};
use snapshot_engine::Lane;
use snapshot_engine::machine::{Body, Header, Piece};
use snapshot_image::HostOffset;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::thread::JoinHandle;

const BUFFER_BYTES: usize = 64 << 10;

/// Writes what comes in to the file; ends at the end of the input.
#[derive(Default)]
struct Store {
    actions: VecDeque<Action>,
    buffer: Option<BufferId>,
    stored: u64,
    events: Vec<String>,
    hold: bool,
}

impl Store {
    fn read(&mut self, pool: &mut Pool) {
        let buffer = pool.take(BUFFER_BYTES).unwrap();
        self.buffer = Some(buffer);
        self.actions.push_back(Action::ReadInput { buffer, range: 0..BUFFER_BYTES });
    }
}

impl Machine for Store {
    fn handle(&mut self, event: Event<'_>, pool: &mut Pool) {
        match event {
            Event::Tick { .. } => {
                assert!(self.events.is_empty(), "one tick, and first");
                self.events.push("tick".to_owned());
                if self.hold {
                    self.actions.push_back(Action::LimitInput { bytes: HELD_BYTES });
                }
                self.read(pool);
            }
            Event::Input { bytes } => {
                let (buffer, at) = (self.buffer.unwrap(), HostOffset(self.stored));
                self.stored += bytes as u64;
                let pieces = vec![Piece { at, range: 0..bytes }];
                self.actions.push_back(Action::Write { id: IoId(self.stored), buffer, pieces });
            }
            Event::Done { id: IoId(0), result } => {
                assert_eq!(result, Ok(Completed::Plain));
                self.actions.push_back(Action::Finish);
            }
            Event::Done { result, .. } => {
                assert_eq!(result, Ok(Completed::Plain));
                pool.release(self.buffer.take().unwrap());
                self.read(pool);
            }
            Event::InputEnd => self.actions.push_back(Action::Flush { id: IoId(0) }),
            other => {
                self.events.push(format!("{other:?}"));
                self.actions.push_back(Action::Finish);
            }
        }
    }

    fn poll(&mut self, _: &mut Pool) -> Option<Action> {
        self.actions.pop_front()
    }
}

/// Sends a file, in many small pieces of each buffer.
#[derive(Default)]
struct Send {
    actions: VecDeque<Action>,
    buffer: Option<BufferId>,
    length: u64,
    at: u64,
    sent: u64,
    /// From so many bytes on no more than that may pile up.
    limits: VecDeque<(u64, usize)>,
    events: Vec<String>,
}

impl Send {
    fn next(&mut self, pool: &mut Pool) {
        if self.at == self.length {
            return self.actions.push_back(Action::Finish);
        }
        let buffer = pool.take(BUFFER_BYTES).unwrap();
        self.buffer = Some(buffer);
        let pieces = vec![Piece { at: HostOffset(self.at), range: 0..BUFFER_BYTES }];
        self.actions.push_back(Action::Read { id: IoId(1), buffer, pieces });
    }
}

impl Machine for Send {
    fn handle(&mut self, event: Event<'_>, pool: &mut Pool) {
        match event {
            Event::Tick { .. } => self.next(pool),
            Event::Done { result, .. } => {
                assert_eq!(result, Ok(Completed::Plain));
                // The first bytes of every piece are its header, and an empty piece is between.
                let buffer = self.buffer.unwrap();
                for start in (0..BUFFER_BYTES).step_by(64) {
                    let header = Header::from(&pool.bytes(buffer)[start..start + 9]);
                    let body = Some(Body { buffer, range: start + 9..start + 64 });
                    self.actions.push_back(Action::Send { lane: Lane::Main, header, body });
                    self.actions.push_back(Action::Send {
                        lane: Lane::Main,
                        header: Header::from(&[][..]),
                        body: None,
                    });
                }
            }
            Event::Sent { bytes, .. } => {
                self.sent += bytes;
                if let Some((_, bytes)) = self.limits.pop_front_if(|(from, _)| *from <= self.sent) {
                    self.actions.push_back(Action::LimitOutput { bytes });
                }
                if self.sent == self.at + BUFFER_BYTES as u64 {
                    self.at = self.sent;
                    pool.release(self.buffer.take().unwrap());
                    self.next(pool);
                }
            }
            other => {
                self.events.push(format!("{other:?}"));
                self.actions.push_back(Action::Finish);
            }
        }
    }

    fn poll(&mut self, _: &mut Pool) -> Option<Action> {
        self.actions.pop_front()
    }
}

fn content(length: usize) -> Vec<u8> {
    (0u32..).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).take(length).collect()
}

fn image(path: &Path) -> ImageFile {
    let spec = ImageSpec { path: path.to_owned(), direct: false, aio: None };
    ImageFile::open_for_save(&spec, false).unwrap()
}

/// The driver on one end of a channel whose other end the test has.
fn driver(end: &OwnedFd, save: bool, path: &Path, aio: Option<Aio>) -> Driver {
    let (_writer, signals) = UnixStream::pair().unwrap();
    let uri = Uri::Fd(end.as_raw_fd());
    let channel = if save {
        Channel::for_save(Some(&uri), None, signals.as_fd()).unwrap()
    } else {
        Channel::for_revert(Some(&uri), false, None, signals.as_fd()).unwrap()
    };
    let disk = DiskQueue::new(aio).unwrap();
    Driver { channel, image: Some(image(path)), disk, signals: None, listens: !save }
}

/// Ends of a channel: (ours, the test's).
fn channels() -> Vec<(&'static str, OwnedFd, OwnedFd)> {
    let (reader, writer) = std::io::pipe().unwrap();
    let (one, other) = UnixStream::pair().unwrap();
    vec![("pipe", reader.into(), writer.into()), ("socket", one.into(), other.into())]
}

fn in_background<T: std::marker::Send + 'static>(
    job: impl FnOnce() -> T + std::marker::Send + 'static,
) -> JoinHandle<T> {
    std::thread::spawn(job)
}

#[test]
fn input_reaches_the_file_over_pipes_and_sockets() {
    for aio in [None, Some(Aio::Threads)] {
        for hold in [false, true] {
            for (kind, ours, others) in channels() {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("image");
                std::fs::write(&path, b"").unwrap();
                let bytes = content(3_000_001);
                let expected = bytes.clone();
                let mut driver = driver(&ours, true, &path, aio);
                drop(ours);
                let writer = in_background(move || std::fs::File::from(others).write_all(&bytes));
                let mut machine = Store { hold, ..Store::default() };
                run(&mut machine, &mut driver, |_| (), |_| ()).unwrap();
                writer.join().unwrap().unwrap();
                assert_eq!(machine.events, ["tick"]);
                assert!(std::fs::read(&path).unwrap() == expected, "{kind}, hold {hold}, {aio:?}");
            }
        }
    }
}

#[test]
fn held_writer_has_one_page_of_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, b"").unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let reader = OwnedFd::from(reader);
    // More than a page is in it: the first attempts fail.
    writer.write_all(&content(60_000)).unwrap();
    let mut driver = driver(&reader, true, &path, None);
    let seen = in_background(move || {
        let start = Instant::now();
        while rustix::pipe::fcntl_getpipe_size(&writer).unwrap() > 4096 {
            assert!(start.elapsed() < Duration::from_secs(10), "the pipe was never shrunk");
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let mut machine = Store { hold: true, ..Store::default() };
    run(&mut machine, &mut driver, |_| (), |_| ()).unwrap();
    seen.join().unwrap();
    assert_eq!(machine.stored, 60_000);
}

#[test]
fn input_pipe_is_resized_when_that_is_possible() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let reader = OwnedFd::from(reader);
    let (uri, wait) = (Uri::Fd(reader.as_raw_fd()), None);
    let (signals, _others) = UnixStream::pair().unwrap();
    let channel = Channel::for_save(Some(&uri), wait, signals.as_fd()).unwrap();
    assert_eq!(channel.input_limit(), Some(INPUT_BYTES), "pipe(7)");
    assert!(channel.limit_input(1 << 18));
    writer.write_all(&content(200_000)).unwrap();
    assert!(!channel.limit_input(1 << 16), "200,000 bytes are in it");
    assert_eq!(channel.input_limit(), Some(1 << 18));
    std::fs::File::from(reader).read_exact(&mut vec![0; 200_000]).unwrap();
    assert!(channel.limit_input(1 << 16));
    assert_eq!(channel.input_limit(), Some(1 << 16));
}

#[test]
fn the_more_can_pile_up_the_more_a_read_waits_for() {
    let shortest = Some(IDLE_DELAY.start);
    for (last, bytes, most, expected) in [
        (None, 20_000, 1 << 16, shortest),
        (None, 40_000, 1 << 16, None),
        (shortest, 20_000, 1 << 16, shortest),
        (shortest, 20_000, 1 << 18, shortest.map(|time| 2 * time)),
        (shortest, 40_000, 1 << 16, None),
        (Some(IDLE_DELAY.end), 20_000, 1 << 20, Some(IDLE_DELAY.end)),
    ] {
        assert_eq!(idle_delay(last, bytes, most), expected, "{last:?}, {bytes} of {most}");
    }
}

#[test]
fn output_reaches_a_slow_reader_whole() {
    for (kind, others, ours) in channels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let bytes = content(BUFFER_BYTES * 20);
        std::fs::write(&path, &bytes).unwrap();
        let mut driver = driver(&ours, false, &path, None);
        drop(ours);
        let reader = in_background(move || {
            let (mut file, mut all, mut chunk) = (std::fs::File::from(others), Vec::new(), [0; 7001]);
            loop {
                let length = file.read(&mut chunk).unwrap();
                all.extend_from_slice(&chunk[..length]);
                if length == 0 {
                    return all;
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        });
        let limits = VecDeque::from([(100_000, 4 << 10), (500_000, 64 << 10), (900_000, 16 << 10)]);
        let mut machine = Send { length: bytes.len() as u64, limits, ..Send::default() };
        run(&mut machine, &mut driver, |_| (), |_| ()).unwrap();
        if kind == "pipe" {
            let output = driver.channel.output(Lane::Main).unwrap();
            assert_eq!(rustix::pipe::fcntl_getpipe_size(output).unwrap(), 16 << 10);
        }
        drop(driver);
        assert!(machine.events.is_empty(), "{:?}", machine.events);
        assert!(reader.join().unwrap() == bytes, "{kind}");
    }
}

#[test]
fn closed_reader_is_reported_and_not_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, content(BUFFER_BYTES * 20)).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut driver = driver(&writer.into(), false, &path, None);
    let closes = in_background(move || {
        let mut chunk = [0; 100];
        (&reader).read_exact(&mut chunk).unwrap();
    });
    let mut machine = Send { length: (BUFFER_BYTES * 20) as u64, ..Send::default() };
    run(&mut machine, &mut driver, |_| (), |_| ()).unwrap();
    closes.join().unwrap();
    assert_eq!(
        machine.events,
        ["OutputFailed(IoError { errno: Some(32), text: \"Broken pipe (os error 32)\" })"]
    );
}

#[test]
fn signal_is_reported_while_nothing_else_happens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, b"").unwrap();
    let (reader, _writer) = std::io::pipe().unwrap();
    let mut driver = driver(&reader.into(), true, &path, None);
    let (mut signal, signals) = UnixStream::pair().unwrap();
    driver.signals = Some(signals);
    let sender = in_background(move || {
        std::thread::sleep(Duration::from_millis(20));
        signal.write_all(&[1]).unwrap();
        signal
    });
    let mut machine = Store::default();
    run(&mut machine, &mut driver, |_| (), |_| ()).unwrap();
    sender.join().unwrap();
    assert_eq!(machine.events, ["tick", "Interrupted"]);
}

#[test]
fn answers_of_the_destination_are_passed_on_until_they_end() {
    /// Waits for answers only.
    #[derive(Default)]
    struct Listen(Vec<u8>, bool);

    impl Machine for Listen {
        fn handle(&mut self, event: Event<'_>, _: &mut Pool) {
            match event {
                Event::Answer(bytes) => self.0.extend_from_slice(bytes),
                Event::AnswerEnd => self.1 = true,
                _ => {}
            }
        }

        fn poll(&mut self, _: &mut Pool) -> Option<Action> {
            self.1.then_some(Action::Finish)
        }
    }

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, b"").unwrap();
    let (one, mut other) = UnixStream::pair().unwrap();
    let mut driver = driver(&one.into(), false, &path, None);
    let peer = in_background(move || {
        other.write_all(b"pong").unwrap();
        std::thread::sleep(Duration::from_millis(10));
        other.write_all(b", again").unwrap();
    });
    let mut machine = Listen::default();
    run(&mut machine, &mut driver, |_| (), |_| ()).unwrap();
    peer.join().unwrap();
    assert_eq!(machine.0, b"pong, again");
}

#[test]
fn what_is_ready_to_leave_leaves_before_a_read_begins() {
    /// Sends a page and reads another.
    #[derive(Default)]
    struct Serve {
        actions: VecDeque<Action>,
        events: Vec<&'static str>,
    }

    impl Machine for Serve {
        fn handle(&mut self, event: Event<'_>, pool: &mut Pool) {
            match event {
                Event::Tick { .. } => {
                    let buffer = pool.take(BUFFER_BYTES).unwrap();
                    let header = Header::from(&b"page"[..]);
                    self.actions.push_back(Action::Send { lane: Lane::Main, header, body: None });
                    let pieces = vec![Piece { at: HostOffset(0), range: 0..BUFFER_BYTES }];
                    self.actions.push_back(Action::Read { id: IoId(1), buffer, pieces });
                }
                Event::Sent { .. } => self.events.push("sent"),
                Event::Done { .. } => {
                    self.events.push("read");
                    self.actions.push_back(Action::Finish);
                }
                other => panic!("{other:?}"),
            }
        }

        fn poll(&mut self, _: &mut Pool) -> Option<Action> {
            self.actions.pop_front()
        }
    }

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    std::fs::write(&path, content(BUFFER_BYTES)).unwrap();
    for aio in [None, Some(Aio::Threads)] {
        let (ours, _others) = UnixStream::pair().unwrap();
        let mut driver = driver(&ours.into(), false, &path, aio);
        driver.listens = true;
        let mut machine = Serve::default();
        run(&mut machine, &mut driver, |_| (), |_| ()).unwrap();
        assert_eq!(machine.events, ["sent", "read"], "{aio:?}");
    }
}

#[test]
fn next_data_skips_holes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(path).unwrap();
    file.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], 4 << 20).unwrap();
    // A file system that cannot tell has data everywhere: also right.
    let Ok(Completed::Data(Some(data))) = next_data(&file, 0) else { panic!("there is data") };
    assert!(data.contains(&(4 << 20)) && data.start <= 4 << 20);
    assert_eq!(next_data(&file, 8 << 20).unwrap(), Completed::Data(None));
}
