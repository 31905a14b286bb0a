//! How much is measured: as much as a few minutes allow.

use brooklet::kernels::quant::Format;

/// Multiplications that finding out what matrices are worth may take: some minutes.
const MOST_MACS: u64 = 16_000_000_000_000;
/// The same for running each matrix of the finished file alone.
const MOST_MACS_OF_OWN: u64 = 6_000_000_000_000;
/// The same for one measurement of a whole file.
const MOST_MACS_OF_WHOLE: u64 = 400_000_000_000;

/// Segments of the calibration stream, and their steps. States forget slowly: long segments come first, fewer of them next.
const STREAMS: [(usize, usize); 8] = [(32, 512), (16, 512), (8, 512), (4, 512), (4, 256), (2, 256), (1, 256), (1, 128)];
/// Least steps that tell one format of a matrix from the next; with fewer, only some formats are measured, and the others follow from them.
const STEPS_FOR_ALL: usize = 1024;
/// Least steps that tell one matrix from another.
const STEPS_FOR_SOME: usize = 256;

/// What is measured to find out what each matrix is worth.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Effort {
    /// Segments.
    pub(super) segments: usize,
    /// Steps of each.
    pub(super) steps: usize,
    /// Formats that every matrix is measured in; what the others cost follows from these.
    pub(super) anchors: Vec<Format>,
    /// Sets of matrices that are measured together, at most.
    pub(super) bands: usize,
}

impl Effort {
    /// For `units` matrices that may take `formats`, in a model of so many multiplications a step, over a stream of at most `stream_steps`.
    pub(super) fn new(units: usize, formats: &[Format], macs_per_step: u64, stream_steps: usize) -> Self {
        let mut rounded: Vec<Format> = formats.iter().copied().filter(|format| format.is_quantized()).collect();
        // Two bits are offered to some budgets only. They come on top, so that one ledger serves all.
        let on_top: Vec<Format> = if rounded.len() > 1 { rounded.extract_if(.., |f| *f == Format::T2).collect() } else { Vec::new() };
        let affords = |steps: usize, anchors: usize| {
            (units * anchors * steps.min(stream_steps)) as u64 <= MOST_MACS / macs_per_step.max(1) // saturates nowhere: units are few
        };
        let middle = |wanted: Format| rounded.iter().copied().find(|&f| f == wanted).or(rounded.get(rounded.len() / 2).copied());
        let ends = || rounded.first().into_iter().chain(rounded.last()).copied().collect::<Vec<_>>();
        let sets = [(rounded.clone(), STEPS_FOR_ALL), (ends(), STEPS_FOR_SOME), (middle(Format::Q4).into_iter().collect(), STEPS_FOR_SOME)];
        for (mut anchors, least_steps) in sets {
            anchors.dedup();
            for (segments, steps) in STREAMS {
                if segments * steps >= least_steps && affords(segments * steps, anchors.len()) {
                    if anchors == rounded {
                        anchors.splice(..0, on_top);
                    }
                    return Effort { segments, steps, anchors, bands: units };
                }
            }
        }
        let (segments, steps) = (2, STEPS_FOR_SOME / 2);
        let bands = MOST_MACS / (macs_per_step.max(1) * (segments * steps) as u64);
        Effort { segments, steps, anchors: middle(Format::Q4).into_iter().collect(), bands: (bands as usize).clamp(1, units.max(1)) }
    }
}

/// Segments and steps on which each of `units` matrices of a finished file can be run by itself; `None` where that takes too long.
pub(super) fn stream_for_own(units: usize, macs_per_step: u64, whole: (usize, usize)) -> Option<(usize, usize)> {
    let affords = |(segments, steps): (usize, usize)| ((units * segments * steps) as u64).saturating_mul(macs_per_step) <= MOST_MACS_OF_OWN;
    let is_some =
        |&(segments, steps): &(usize, usize)| segments * steps >= STEPS_FOR_ALL && segments <= whole.0 && affords((segments, steps));
    STREAMS.into_iter().find(is_some)
}

/// Segments and steps for measurements of whole files, whose float answers must be held meanwhile.
pub(super) fn stream_for_whole(macs_per_step: u64, outputs: usize, most_held_numbers: usize) -> (usize, usize) {
    let fits = |&(segments, steps): &(usize, usize)| {
        let all = segments * steps;
        all * outputs <= most_held_numbers && (all as u64).saturating_mul(macs_per_step) <= MOST_MACS_OF_WHOLE
    };
    STREAMS.into_iter().find(fits).unwrap_or(STREAMS[STREAMS.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::{Effort, MOST_MACS, stream_for_whole};
    use brooklet::kernels::quant::Format;

    const FORMATS: [Format; 6] = [Format::Q3, Format::Q4, Format::Q5, Format::Q6, Format::Q8, Format::F16];

    #[test]
    fn small_models_are_measured_in_every_format_and_large_ones_in_bands() {
        let small = Effort::new(20, &FORMATS, 50_000, usize::MAX);
        assert_eq!((small.segments, small.steps, &small.anchors[..]), (32, 512, &FORMATS[..5]));
        let middling = Effort::new(130, &FORMATS, 350_000_000, usize::MAX);
        assert!(middling.anchors.len() < 5 && middling.bands == 130, "{middling:?}");
        let large = Effort::new(300, &FORMATS, 1_500_000_000, usize::MAX);
        assert!(large.anchors == [Format::Q4] && large.bands < 300, "{large:?}");
        for (effort, macs) in [(small, 50_000), (middling, 350_000_000), (large, 1_500_000_000)] {
            let work = effort.bands * effort.anchors.len() * effort.segments * effort.steps;
            assert!(work as u64 * macs <= MOST_MACS, "{effort:?}");
        }
    }

    #[test]
    fn two_bits_are_measured_on_the_stream_of_the_others() {
        let with: Vec<Format> = std::iter::once(Format::T2).chain(FORMATS).collect();
        for macs in [50_000, 38_000_000, 350_000_000, 1_500_000_000] {
            let (without, with) = (Effort::new(65, &FORMATS, macs, usize::MAX), Effort::new(65, &with, macs, usize::MAX));
            assert_eq!((with.segments, with.steps, with.bands), (without.segments, without.steps, without.bands));
            assert_eq!(with.anchors.contains(&Format::T2), without.anchors.len() == 5);
        }
    }

    #[test]
    fn a_format_that_the_device_lacks_is_no_anchor() {
        let large = Effort::new(300, &[Format::Q8, Format::F16], 1_500_000_000, usize::MAX);
        assert_eq!(large.anchors, [Format::Q8]);
        assert!(Effort::new(3, &[Format::F16], 1, usize::MAX).anchors.is_empty());
    }

    #[test]
    fn whole_files_are_measured_on_what_fits_in_memory() {
        let (segments, steps) = stream_for_whole(38_000_000, 8192, 64 << 20);
        assert_eq!((segments, steps), (16, 512));
        assert_eq!(stream_for_whole(u64::MAX, 1 << 30, 1), (1, 128));
    }
}
