//! The watch classifier on Nordic's nRF52840 development kit.
//!
//! | MPU-6050 | kit | |
//! |---|---|---|
//! | SDA, SCL | P0.26, P0.27 | I2C at 400 kHz |
//! | INT | P0.28 | a pulse per sample |
//!
//! Reports leave at 115,200 baud on P0.06, the kit's own USB serial port.
#![no_std]
#![no_main]

use brooklet::{Line, Session, State, kernels};
use brooklet_app::{Classifier, Clock, Fault, Message, Mpu6050, SampleQueue, Sampler, Stage, boot};
use core::cell::RefCell;
use core::convert::Infallible;
use cortex_m::peripheral::{DWT, NVIC};
use critical_section::Mutex;
use hal::gpio::{Level, p0};
use hal::gpiote::Gpiote;
use hal::pac::{self, TWIM0, interrupt};
use hal::{Clocks, Delay, Twim, Uarte, twim, uarte};
use nrf52840_hal as hal;
use static_cell::{ConstStaticCell, StaticCell};

#[cfg(not(feature = "defmt"))]
use panic_halt as _;
#[cfg(feature = "defmt")]
use {defmt_rtt as _, panic_probe as _};

#[allow(dead_code, unreachable_pub, reason = "the same source for every firmware")]
mod model {
    include!(concat!(env!("OUT_DIR"), "/model.rs"));
}

const CLOCK_HZ: u32 = 64_000_000;
const RATE_HZ: u16 = 50;

static STATE: ConstStaticCell<[Line; model::STATE_LINES]> = ConstStaticCell::new([Line::ZERO; model::STATE_LINES]);
static SCRATCH: ConstStaticCell<[Line; model::SCRATCH_LINES]> = ConstStaticCell::new([Line::ZERO; model::SCRATCH_LINES]);
static QUEUE: StaticCell<SampleQueue> = StaticCell::new();
static TX_BUFFER: ConstStaticCell<[u8; 64]> = ConstStaticCell::new([0; 64]);
static RX_BUFFER: ConstStaticCell<[u8; 1]> = ConstStaticCell::new([0; 1]);
/// What the data-ready interrupt works with.
static SENSOR: Mutex<RefCell<Option<(Gpiote, Sampler<'static, Mpu6050<Twim<TWIM0>>>)>>> = Mutex::new(RefCell::new(None));

/// The core's cycle counter.
struct Cycles;

impl Clock for Cycles {
    fn ticks(&self) -> u32 {
        DWT::cycle_count()
    }

    fn rate_hz(&self) -> u32 {
        CLOCK_HZ
    }
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let (Some(device), Some(mut core)) = (pac::Peripherals::take(), pac::CorePeripherals::take()) else { loop {} };
    Clocks::new(device.CLOCK).enable_ext_hfosc();
    core.DCB.enable_trace();
    core.DWT.enable_cycle_counter();
    let pins = p0::Parts::new(device.P0);

    let serial_pins = uarte::Pins {
        txd: pins.p0_06.into_push_pull_output(Level::High).degrade(),
        rxd: pins.p0_08.into_floating_input().degrade(),
        cts: None,
        rts: None,
    };
    let serial = Uarte::new(device.UARTE0, serial_pins, uarte::Parity::EXCLUDED, uarte::Baudrate::BAUD115200);
    let Ok((mut serial, _)) = serial.split(TX_BUFFER.take(), RX_BUFFER.take()) else { loop {} };

    let bus_pins = twim::Pins { sda: pins.p0_26.into_floating_input().degrade(), scl: pins.p0_27.into_floating_input().degrade() };
    let bus = Twim::new(device.TWIM0, bus_pins, twim::Frequency::K400);
    let data_ready = pins.p0_28.into_pulldown_input().degrade();
    let announcements = Gpiote::new(device.GPIOTE);
    announcements.channel0().input_pin(&data_ready).lo_to_hi().enable_interrupt();

    let fault = match watch(&mut serial, bus, announcements, Delay::new(core.SYST)) {
        Ok(never) => match never {},
        Err(fault) => fault,
    };
    #[cfg(feature = "defmt")]
    defmt::error!("{}", fault);
    let _ = fault.send(&mut serial);
    loop {
        cortex_m::asm::wfi();
    }
}

fn watch(
    serial: &mut uarte::UarteTx<pac::UARTE0>,
    bus: Twim<TWIM0>,
    announcements: Gpiote,
    mut delay: Delay,
) -> Result<Infallible, Message> {
    let (state_memory, scratch) = (Line::bytes_mut(STATE.take()), Line::bytes_mut(SCRATCH.take()));
    let model = boot(model::FILE, state_memory, scratch)?;
    let mut state = State::new(&model, state_memory).map_err(step_fault)?;
    let session = Session::new(&model, kernels::detect(), &mut state, scratch).map_err(step_fault)?;

    let sensor = Mpu6050::new(bus, &mut delay, RATE_HZ).map_err(|error| Message::fault(Stage::Sensor, format_args!("{error:?}")))?;
    let (producer, consumer) = QUEUE.init(SampleQueue::new()).split();
    critical_section::with(|cs| SENSOR.borrow_ref_mut(cs).replace((announcements, Sampler::new(sensor, producer))));
    let _ = Message::Ready { model_hash: model.artifact().hash() }.send(serial);
    // SAFETY: the interrupt's resources are in place, and no critical section depends on its mask.
    unsafe { NVIC::unmask(pac::Interrupt::GPIOTE) };
    Err(Classifier::new(consumer, session, Cycles).run(serial, cortex_m::asm::wfi))
}

fn step_fault(error: brooklet::Error) -> Message {
    Fault { stage: Stage::Step, error }.into()
}

#[interrupt]
fn GPIOTE() {
    critical_section::with(|cs| {
        if let Some((announcements, sampler)) = SENSOR.borrow_ref_mut(cs).as_mut() {
            announcements.channel0().reset_events();
            sampler.data_ready();
        }
    });
}
