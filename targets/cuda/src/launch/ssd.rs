//! `ssd.cu`: the state-space dual recurrence of many tokens, in chunks on tensor cores.

use super::SsdShape;
use super::cluster::Clustered;
use super::overlap::{allow_shared, pointers};
use crate::arena::Address;
use crate::batch::Batch;
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::CudaFunction;

/// Threads of a block: three warpgroups.
const THREADS: u32 = 3 * 128;
/// Tokens of a chunk, channels of a block, and numbers of d_state in a panel.
const PANEL: u32 = 64;
/// Panels of d_state that have a kernel.
const PANELS: [u32; 3] = [1, 2, 4];
/// Most stages of a block's ring (`STAGES`).
const MOST_STAGES: u32 = 4;
/// `sizeof(Ends)`.
const ENDS_BYTES: u32 = (5 * MOST_STAGES + 8) * 8;
/// Most blocks that every GPU with clusters takes in one: segments of time.
const MOST_SEGMENTS: usize = 8;

/// State-space dual recurrences with `d_state` up to [`StateSpaceDual::MAX_STATE`].
#[derive(Clone, Debug)]
pub struct StateSpaceDual {
    /// For each width of states.
    kernels: Vec<Kernel>,
}

#[derive(Clone, Debug)]
struct Kernel {
    function: CudaFunction,
    panels: u32,
    /// Most shared memory of a block.
    most_bytes: u32,
    /// For each number of segments but 0, how many heads' panels of channels the GPU walks at the same time; 0 if sequences cannot be cut so.
    at_once: [u32; MOST_SEGMENTS + 1],
}

impl StateSpaceDual {
    /// The widest state.
    pub const MAX_STATE: u32 = PANELS[2] * PANEL;
    /// Shorter sequences go token by token elsewhere.
    pub const SHORTEST: u32 = 8;

    /// Loads the kernels.
    pub fn load(device: &Device) -> Result<Self, Error> {
        let module = device.load(include_bytes!("../cubins/ssd.bin"))?;
        let mut kernels = Vec::new();
        for panels in PANELS {
            let function = module.function(&format!("ssd_prefill_f32_{}", panels * PANEL))?;
            let most_bytes = allow_shared(device, &function)?;
            let mut kernel = Kernel { function, panels, most_bytes, at_once: [0; MOST_SEGMENTS + 1] };
            kernel.count_clusters(device)?;
            kernels.push(kernel);
        }
        Ok(StateSpaceDual { kernels })
    }

    /// The recurrence over the batch's tokens; `false`, and nothing done, if there are few of them, in a block that a token enters or not, or if the
    /// state is wider than the kernels or this GPU's shared memory take.
    pub fn run(&self, device: &Device, batch: &Batch, shape: &SsdShape) -> Result<bool, Error> {
        let Some(kernel) = self.kernels.iter().find(|kernel| shape.d_state <= kernel.panels * PANEL) else { return Ok(false) };
        if kernel.stages(1) == 0 || batch.tokens < Self::SHORTEST || batch.gate != Address::NULL {
            return Ok(false);
        }
        let panels_of_channels = shape.head_dim.div_ceil(PANEL);
        let segments = kernel.segments(batch.tokens.div_ceil(PANEL), shape.heads * panels_of_channels * batch.streams);
        let stages = kernel.stages(segments);
        let operand = |at| batch.operand(at);
        let state = batch.state.plus(shape.slot);
        let (x, dt, b, c, y) = (operand(shape.x), operand(shape.dt), operand(shape.b), operand(shape.c), operand(shape.out));
        let launch = Clustered {
            grid: (shape.heads * segments, panels_of_channels, batch.streams),
            threads: THREADS,
            cluster: segments,
            shared_bytes: kernel.shared_bytes(stages, segments),
        };
        let stride = batch.stride;
        let mut arguments = pointers![
            x,
            dt,
            b,
            c,
            y,
            stride,
            stride,
            stride,
            stride,
            stride,
            shape.a,
            shape.d,
            shape.dt_bias,
            shape.dt_lo,
            shape.dt_hi,
            batch.gaps,
            state,
            batch.state_stride,
            shape.is_half,
            batch.tokens,
            shape.heads,
            shape.head_dim,
            shape.groups,
            shape.d_state,
            stages,
            segments,
        ];
        // SAFETY: these are the kernel's parameters, in order and in type, addresses of an arena, and spans that lie in the frame: the program was
        // checked when it was loaded.
        unsafe { launch.queue(device, &kernel.function, &mut arguments) }?;
        Ok(true)
    }
}

impl Kernel {
    /// How many stages a block's ring has if sequences are cut into so many segments.
    fn stages(&self, segments: u32) -> u32 {
        (self.most_bytes.saturating_sub(self.shared_bytes(0, segments)) / stage_bytes(self.panels)).min(MOST_STAGES)
    }

    /// Shared memory of a block: stages, the state that another block hands on, and barriers.
    fn shared_bytes(&self, stages: u32, segments: u32) -> u32 {
        let carry_bytes = if segments > 1 { self.panels * PANEL * PANEL * 4 } else { 0 };
        stages * stage_bytes(self.panels) + carry_bytes + ENDS_BYTES
    }

    /// Asks the GPU what it runs at the same time.
    fn count_clusters(&mut self, device: &Device) -> Result<(), Error> {
        // The archive's other code knows no clusters.
        if device.capability() != (9, 0) {
            return Ok(());
        }
        for cluster in 2..=MOST_SEGMENTS as u32 {
            let stages = self.stages(cluster);
            if stages > 0 {
                let shared_bytes = self.shared_bytes(stages, cluster);
                let launch = Clustered { grid: (cluster, 1, 1), threads: THREADS, cluster, shared_bytes };
                self.at_once[cluster as usize] = launch.at_once(device, &self.function)?;
            }
        }
        Ok(())
    }

    /// Into how many segments sequences of so many chunks are cut, none empty, if so many heads' panels of channels are to be walked.
    fn segments(&self, chunks: u32, walks: u32) -> u32 {
        let each = |segments: u32| chunks.div_ceil(segments);
        let fits = |&segments: &u32| walks <= self.at_once[segments as usize] && chunks.div_ceil(each(segments)) == segments;
        (2..=MOST_SEGMENTS as u32).filter(fits).min_by_key(|&segments| each(segments)).unwrap_or(1)
    }
}

/// `sizeof(Stage)` of f32 operands, which are pairs of bf16 (panels of b, c, x and scores), and `sizeof(Steps)`.
const fn stage_bytes(panels: u32) -> u32 {
    2 * 2 * PANEL * PANEL * (2 * panels + 2) + 4 * (4 * PANEL + 96)
}
