//! Plots as SVG: colours and fonts are the page's.

use std::fmt::Write;

/// Size of a plot and the room around its field, in units of its view box.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 18.0;
const BOTTOM: f64 = 44.0;

/// A scale of a plot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    from: f64,
    to: f64,
    is_log: bool,
}

impl Axis {
    /// Holds all of `values`, from 0 on if they are not on a logarithmic scale and start near it.
    pub(super) fn new(values: impl Iterator<Item = f64>, is_log: bool) -> Self {
        let usable = values.filter(|x| x.is_finite() && (!is_log || *x > 0.0));
        let (from, to) = usable.fold((f64::INFINITY, f64::NEG_INFINITY), |(from, to), x| (from.min(x), to.max(x)));
        if from > to {
            return Axis { from: if is_log { 0.1 } else { 0.0 }, to: 1.0, is_log };
        }
        if is_log {
            return Axis { from: from / 1.3, to: to * 1.3, is_log };
        }
        let margin = 0.04 * (to - from).max(to.abs() * 1e-3).max(1e-12);
        Axis { from: if from >= 0.0 && from < 0.4 * to { 0.0 } else { from - margin }, to: to + margin, is_log }
    }

    /// The place of a value, from 0 to 1.
    fn share(&self, x: f64) -> f64 {
        let share = if self.is_log {
            (x.max(1e-300) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (x - self.from) / (self.to - self.from)
        };
        share.clamp(0.0, 1.0)
    }

    /// Round values to name.
    fn ticks(&self) -> Vec<f64> {
        if self.is_log {
            let decades = self.from.log10().floor() as i32..=self.to.log10().ceil() as i32;
            let few = (self.to / self.from).log10() > 3.5;
            let steps: &[f64] = if few { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let all = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
            return all.filter(|x| (self.from..=self.to).contains(x)).collect();
        }
        let rough = (self.to - self.from) / 6.0;
        let decade = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|s| s * decade).find(|s| *s >= rough).unwrap_or(rough);
        let first = (self.from / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|x| *x <= self.to + 1e-9 * step).collect()
    }
}

/// A plot that is drawn bit by bit.
pub(super) struct Plot {
    x: Axis,
    y: Axis,
    body: String,
}

impl Plot {
    /// An empty field with its scales; `name_x` and `name_y` say how a value reads.
    pub(super) fn new(
        x: Axis,
        y: Axis,
        title_x: &str,
        title_y: &str,
        name_x: impl Fn(f64) -> String,
        name_y: impl Fn(f64) -> String,
    ) -> Self {
        let mut plot = Plot { x, y, body: String::new() };
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for tick in y.ticks() {
            let at = plot.at_y(tick);
            plot.add(format_args!("<line class='grid' x1='{LEFT:.1}' y1='{at:.1}' x2='{right:.1}' y2='{at:.1}' />"));
            plot.add(format_args!(
                "<text class='tick' x='{:.1}' y='{:.1}' text-anchor='end'>{}</text>",
                LEFT - 8.0,
                at + 4.0,
                name_y(tick)
            ));
        }
        for tick in x.ticks() {
            let at = plot.at_x(tick);
            plot.add(format_args!("<line class='mark' x1='{at:.1}' y1='{bottom:.1}' x2='{at:.1}' y2='{:.1}' />", bottom + 5.0));
            plot.add(format_args!("<text class='tick' x='{at:.1}' y='{:.1}' text-anchor='middle'>{}</text>", bottom + 19.0, name_x(tick)));
        }
        plot.add(format_args!("<line class='mark' x1='{LEFT:.1}' y1='{bottom:.1}' x2='{right:.1}' y2='{bottom:.1}' />"));
        plot.add(format_args!("<text class='title' x='{right:.1}' y='{:.1}' text-anchor='end'>{title_x}</text>", HEIGHT - 6.0));
        plot.add(format_args!("<text class='title' x='{:.1}' y='12'>{title_y}</text>", 4.0));
        plot
    }

    fn add(&mut self, what: std::fmt::Arguments<'_>) {
        // Writing into memory cannot fail.
        let _ = writeln!(self.body, "{what}");
    }

    fn at_x(&self, x: f64) -> f64 {
        LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT)
    }

    fn at_y(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.share(y) * (HEIGHT - TOP - BOTTOM)
    }

    /// A line through points.
    pub(super) fn line(&mut self, points: impl Iterator<Item = (f64, f64)>) {
        let path: Vec<String> = points.map(|(x, y)| format!("{:.1},{:.1}", self.at_x(x), self.at_y(y))).collect();
        self.add(format_args!("<polyline class='line' points='{}' />", path.join(" ")));
    }

    /// A surface under a line.
    pub(super) fn area(&mut self, points: &[(f64, f64)]) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
        let bottom = HEIGHT - BOTTOM;
        let path: Vec<String> = points.iter().map(|&(x, y)| format!("{:.1},{:.1}", self.at_x(x), self.at_y(y))).collect();
        let (first, last) = (self.at_x(first.0), self.at_x(last.0));
        self.add(format_args!("<polygon class='area' points='{first:.1},{bottom:.1} {} {last:.1},{bottom:.1}' />", path.join(" ")));
    }

    /// A dot with a name above it on the right, and what it says when pointed at.
    pub(super) fn dot(&mut self, class: &str, (x, y): (f64, f64), name: &str, says: &str) {
        let (x, y) = (self.at_x(x), self.at_y(y));
        let radius = if class == "chosen" { 6.5 } else { 4.5 };
        self.add(format_args!("<circle class='{class}' cx='{x:.1}' cy='{y:.1}' r='{radius}'><title>{says}</title></circle>"));
        // Names stay inside, and that of the chosen one away from others.
        let (at, anchor) = if x > WIDTH - 130.0 { (x - 10.0, "end") } else { (x + 9.0, "start") };
        let y = if class == "chosen" { y + 21.0 } else { y };
        self.add(format_args!("<text class='name {class}' x='{at:.1}' y='{:.1}' text-anchor='{anchor}'>{name}</text>", y - 7.0));
    }

    /// A line from top to bottom with a name.
    pub(super) fn upright(&mut self, x: f64, name: &str) {
        let at = self.at_x(x);
        self.add(format_args!("<line class='limit' x1='{at:.1}' y1='{TOP:.1}' x2='{at:.1}' y2='{:.1}' />", HEIGHT - BOTTOM));
        let (text_at, anchor) = if at > WIDTH / 2.0 { (at - 6.0, "end") } else { (at + 6.0, "start") };
        self.add(format_args!(
            "<text class='name limit' x='{text_at:.1}' y='{:.1}' text-anchor='{anchor}'>{name}</text>",
            HEIGHT - BOTTOM - 8.0
        ));
    }

    /// The whole plot; `says` describes it to who cannot see it.
    pub(super) fn svg(self, says: &str) -> String {
        format!("<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{says}'>\n{}</svg>\n", self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::Axis;

    #[test]
    fn ticks_are_round_and_inside() {
        let ticks = Axis::new([10.0, 37.0].into_iter(), false).ticks();
        assert!(ticks.len() >= 4 && ticks.iter().all(|t| (t / 5.0).fract() == 0.0), "{ticks:?}");
        let ticks = Axis::new([1e-5, 3e-2].into_iter(), true).ticks();
        assert!(ticks.contains(&1e-4) && ticks.len() < 12, "{ticks:?}");
        assert!(!Axis::new([f64::NAN].into_iter(), true).ticks().is_empty());
        assert!(!Axis::new([5.0].into_iter(), false).ticks().is_empty());
    }
}
