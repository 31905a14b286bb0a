//! Sensor, queue, steps and reports on the host: what comes out of the serial line is what a plain session computes.

use brooklet::{Input, Line, Model, Session, State, kernels, mem::lines_from, softmax};
use brooklet_app::{
    Aligned, CHANNELS, Classifier, Clock, Damaged, Imu, MAX_FRAME_BYTES, Message, Receiver, Report, SampleQueue, Sampler, Stage, boot,
};
use heapless::Vec as FixedVec;
use std::cell::Cell;

static WATCH: &[u8] = &Aligned(*include_bytes!("../../../../examples/models/watch.brook")).0;

/// A sensor whose every third reading fails from the tenth on.
struct LooseWire(u32);

impl Imu for LooseWire {
    type Error = &'static str;
    fn read(&mut self) -> Result<[f32; CHANNELS], Self::Error> {
        self.0 += 1;
        if self.0 > 10 && self.0.is_multiple_of(3) { Err("no acknowledge") } else { Ok(frame(self.0 - 1)) }
    }
}

fn frame(number: u32) -> [f32; CHANNELS] {
    core::array::from_fn(|channel| ((number * 7 + channel as u32 * 3) % 11) as f32 / 11.0 - 0.5)
}

/// Each look takes 250 µs.
struct Ticking(Cell<u32>);

impl Clock for Ticking {
    fn ticks(&self) -> u32 {
        self.0.set(self.0.get().wrapping_add(4_000));
        self.0.get()
    }

    fn rate_hz(&self) -> u32 {
        16_000_000
    }
}

fn memory(bytes: usize) -> Vec<Line> {
    vec![Line::ZERO; bytes.div_ceil(64)]
}

#[test]
fn reports_are_a_sessions_own_answers_and_count_what_was_lost() {
    let model = Model::from_bytes(WATCH).unwrap();
    let (mut state_memory, mut scratch) = (memory(model.state_bytes()), memory(model.scratch_bytes(1)));
    let (state_memory, scratch) = (Line::bytes_mut(&mut state_memory), Line::bytes_mut(&mut scratch));
    let model = boot(WATCH, state_memory, scratch).unwrap();

    let mut queue = SampleQueue::new();
    let (producer, consumer) = queue.split();
    let mut sampler = Sampler::new(LooseWire(0), producer);
    let mut state = State::new(&model, state_memory).unwrap();
    let session = Session::new(&model, kernels::detect(), &mut state, scratch).unwrap();
    let mut classifier = Classifier::new(consumer, session, Ticking(Cell::new(u32::MAX - 1000)));

    let mut line = Vec::new();
    Message::Ready { model_hash: model.artifact().hash() }.send(&mut line).unwrap();
    for announced in 1..=40u32 {
        sampler.data_ready();
        // From sample 20 on the main loop sleeps through ten.
        if !(20..30).contains(&announced) {
            while let Some(report) = classifier.poll().unwrap() {
                Message::Report(report).send(&mut line).unwrap();
            }
        }
    }

    let (mut alone_state, mut alone_scratch) = (memory(model.state_bytes()), memory(model.scratch_bytes(1)));
    let mut alone = State::new(&model, Line::bytes_mut(&mut alone_state)).unwrap();
    let mut alone = Session::new(&model, kernels::detect(), &mut alone, Line::bytes_mut(&mut alone_scratch)).unwrap();
    let mut reports = 0;
    let mut last = 0;
    let mut check = |message: Message| {
        let Message::Report(report) = message else {
            assert_eq!(message, Message::Ready { model_hash: model.artifact().hash() });
            return;
        };
        let mut want = alone.step(Input::Frame(&frame(report.sample))).unwrap().to_vec();
        softmax(&mut want);
        assert!(want.iter().zip(&report.probabilities).all(|(x, y)| x.to_bits() == y.to_bits()) && want.len() == 7);
        assert!(want.iter().all(|&p| p <= want[usize::from(report.class)]));
        assert_eq!((report.step_us, report.lost), (250, report.sample - reports));
        reports += 1;
        last = report.sample;
    };
    // Bytes arrive as they please.
    let mut receiver = Receiver::default();
    line.chunks(13).for_each(|bytes| receiver.feed(bytes, |message| check(message.unwrap())));
    assert_eq!(last, 39);
    assert!(reports < 40 - 8 && reports > 20, "{reports}");
}

#[test]
fn frames_have_room_for_the_longest_messages() {
    let report = Report { sample: u32::MAX, lost: u32::MAX, step_us: u32::MAX, class: 255, probabilities: FixedVec::from([f32::NAN; 16]) };
    let long = "é".repeat(200);
    for message in [Message::Report(report), Message::Ready { model_hash: u64::MAX }, Message::fault(Stage::Step, format_args!("{long}"))] {
        let mut line = Vec::new();
        message.send(&mut line).unwrap();
        assert!(line.len() > 3 && line.len() <= MAX_FRAME_BYTES, "{}", line.len());
        let mut got = Vec::new();
        Receiver::default().feed(&line, |message| got.push(message.unwrap()));
        assert_eq!(format!("{got:?}"), format!("{:?}", [message]));
    }
}

#[test]
fn a_receiver_finds_the_next_frame_after_rubbish() {
    let ready = Message::Ready { model_hash: 7 };
    let mut line = vec![0xff; 3 * MAX_FRAME_BYTES];
    line.push(0);
    for _ in 0..2 {
        ready.send(&mut line).unwrap();
    }
    let mut got = Vec::new();
    Receiver::default().feed(&line, |message| got.push(message));
    assert!(got.contains(&Err(Damaged)), "{got:?}");
    assert_eq!(got.last(), Some(&Ok(ready)), "{got:?}");
}

#[test]
fn boot_names_the_stage_that_failed() {
    let (mut state, mut scratch) = (memory(1 << 15), memory(1 << 12));
    let (state, scratch) = (Line::bytes_mut(&mut state), Line::bytes_mut(&mut scratch));
    let mut lines = lines_from(WATCH);
    Line::bytes_mut(&mut lines)[WATCH.len() - 5] ^= 1;
    assert_eq!(boot(&Line::bytes(&lines)[..WATCH.len()], state, scratch).unwrap_err().stage, Stage::File);
    assert_eq!(boot(WATCH, &mut state[..64], scratch).unwrap_err().stage, Stage::SelfTest);

    let prose = include_bytes!("../../../../examples/models/prose.brook");
    let lines = lines_from(prose);
    let fault = boot(&Line::bytes(&lines)[..prose.len()], state, scratch).unwrap_err();
    assert_eq!(fault.stage, Stage::Channels);
    assert!(matches!(Message::from(fault), Message::Fault { reason, .. } if reason.contains("token ids")));
}
