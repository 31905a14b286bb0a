//! The whole road on a device: a sensor announces samples, an interrupt reads and queues them, the main loop steps and reports.
//! The sensor is a recording behind the registers of an MPU-6050; `cargo xtask firmware` reads the reports.
#![no_std]
#![no_main]

use board::{model, recording};
use brooklet::{Line, Session, State, kernels};
use brooklet_app::{Classifier, Message, Mpu6050, RecordedMpu6050, Replay, SampleQueue, Sampler, Stage, boot};
use core::cell::RefCell;
use critical_section::Mutex;
use embedded_hal::delay::DelayNs;
use static_cell::{ConstStaticCell, StaticCell};

/// Samples that are announced: two seconds.
const SAMPLES: u32 = 100;
const RATE_HZ: u16 = 50;

static STATE: ConstStaticCell<[Line; model::STATE_LINES]> = ConstStaticCell::new([Line::ZERO; model::STATE_LINES]);
static SCRATCH: ConstStaticCell<[Line; model::SCRATCH_LINES]> = ConstStaticCell::new([Line::ZERO; model::SCRATCH_LINES]);
static QUEUE: StaticCell<SampleQueue> = StaticCell::new();
static SAMPLER: Mutex<RefCell<Option<Sampler<'static, Mpu6050<RecordedMpu6050<'static>>>>>> = Mutex::new(RefCell::new(None));

#[board::entry]
fn main() -> ! {
    let mut console = board::Uart::console();
    let Err(fault) = run(&mut console);
    let _ = fault.send(&mut console);
    board::exit(1)
}

fn run(console: &mut board::Uart) -> Result<core::convert::Infallible, Message> {
    let (state_memory, scratch) = (Line::bytes_mut(STATE.take()), Line::bytes_mut(SCRATCH.take()));
    let model = boot(model::FILE, state_memory, scratch)?;
    let step_fault = |error| Message::fault(Stage::Step, format_args!("{error}"));
    let mut state = State::new(&model, state_memory).map_err(step_fault)?;
    let session = Session::new(&model, kernels::detect(), &mut state, scratch).map_err(step_fault)?;

    let sensor = Mpu6050::new(RecordedMpu6050::new(Replay::new(recording::FRAMES)), &mut NoDelay, RATE_HZ)
        .map_err(|error| Message::fault(Stage::Sensor, format_args!("{error:?}")))?;
    let (producer, consumer) = QUEUE.init(SampleQueue::new()).split();
    critical_section::with(|cs| SAMPLER.borrow_ref_mut(cs).replace(Sampler::new(sensor, producer)));
    let _ = Message::Ready { model_hash: model.artifact().hash() }.send(console);

    let uptime = board::start_ticks(RATE_HZ, data_ready);
    let mut classifier = Classifier::new(consumer, session, uptime);
    loop {
        let Some(report) = classifier.poll().map_err(step_fault)? else {
            board::wait_for_interrupt();
            continue;
        };
        let is_last = report.sample + 1 >= SAMPLES;
        let _ = Message::Report(report).send(console);
        if is_last {
            board::exit(0);
        }
    }
}

/// The data-ready interrupt.
fn data_ready() {
    critical_section::with(|cs| {
        if let Some(sampler) = SAMPLER.borrow_ref_mut(cs).as_mut() {
            sampler.data_ready();
        }
    });
}

/// A recording needs no time to wake up.
struct NoDelay;

impl DelayNs for NoDelay {
    fn delay_ns(&mut self, _: u32) {}
}
