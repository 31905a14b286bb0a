//! A chart with logarithmic axes, drawn into a terminal or an SVG file.

use std::fmt::Write;

/// A chart.
pub(crate) struct Panel {
    pub(crate) title: String,
    /// Writes a value of the upright axis.
    pub(crate) label: fn(f64) -> String,
    pub(crate) series: Vec<Series>,
}

/// One line of a chart; both coordinates are above 0.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Letters of a terminal's chart.
const COLUMNS: usize = 64;
const ROWS: usize = 14;
/// What marks the points of each series, in a terminal and in a drawing.
const MARKS: [char; 6] = ['o', 'x', '+', '*', '#', '@'];
const COLOURS: [&str; 6] = ["#d1495b", "#edae49", "#00798c", "#6a4c93", "#52796f", "#8d6a9f"];
/// Measures of a panel in a drawing, in pixels.
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 80.0;
const TOP: f64 = 40.0;
const PLOT_WIDTH: f64 = 350.0;
const PLOT_HEIGHT: f64 = 220.0;

/// The least and the largest value of an axis, on a logarithmic scale.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn around(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low < high { Axis { low, high } } else { Axis { low: low / 2.0, high: low * 2.0 } }
    }

    /// From 0 to 1.
    fn share(&self, value: f64) -> f64 {
        (value / self.low).ln() / (self.high / self.low).ln()
    }

    /// `count` values at equal distances.
    fn ticks(&self, count: usize) -> impl Iterator<Item = f64> {
        (0..count).map(move |i| self.low * (self.high / self.low).powf(i as f64 / (count - 1) as f64))
    }
}

impl Panel {
    fn axes(&self) -> [Axis; 2] {
        let points = || self.series.iter().flat_map(|series| &series.points);
        [Axis::around(points().map(|p| p.0)), Axis::around(points().map(|p| p.1))]
    }

    /// The positions that have a point.
    fn positions(&self) -> Vec<f64> {
        let mut positions: Vec<f64> = self.series.iter().flat_map(|series| &series.points).map(|p| p.0).collect();
        positions.sort_by(f64::total_cmp);
        positions.dedup();
        positions
    }

    /// As lines of text.
    pub(crate) fn text(&self) -> String {
        let [across, up] = self.axes();
        let mut cells = vec![[' '; COLUMNS]; ROWS];
        let place = |x: f64, y: f64| {
            let column = (across.share(x) * (COLUMNS - 1) as f64).round() as usize;
            let row = ((1.0 - up.share(y)) * (ROWS - 1) as f64).round() as usize;
            (row.min(ROWS - 1), column.min(COLUMNS - 1))
        };
        for series in &self.series {
            for pair in series.points.windows(2) {
                let [(x0, y0), (x1, y1)] = [pair[0], pair[1]];
                for i in 0..=COLUMNS {
                    let share = i as f64 / COLUMNS as f64;
                    let (row, column) = place(x0 * (x1 / x0).powf(share), y0 * (y1 / y0).powf(share));
                    cells[row][column] = '.';
                }
            }
        }
        for (series, mark) in self.series.iter().zip(MARKS.iter().cycle()) {
            for &(x, y) in &series.points {
                let (row, column) = place(x, y);
                cells[row][column] = *mark;
            }
        }
        let mut text = format!("{}\n", self.title);
        let labels: Vec<String> = up.ticks(ROWS).map(self.label).collect();
        for (row, cells) in cells.iter().enumerate() {
            let label = if row % 3 == 1 { labels[ROWS - 1 - row].as_str() } else { "" };
            let _ = writeln!(text, "{label:>12} |{}", cells.iter().collect::<String>().trim_end());
        }
        let mut names = [' '; COLUMNS + 8];
        for position in self.positions() {
            let column = place(position, up.low).1;
            for (at, letter) in (column..).zip(short_position(position).chars()) {
                names[at] = letter;
            }
        }
        let _ = writeln!(text, "{:>12} +{}\n{:>14}{}", "", "-".repeat(COLUMNS), "", names.iter().collect::<String>().trim_end());
        for (series, mark) in self.series.iter().zip(MARKS.iter().cycle()) {
            let _ = writeln!(text, "{:>14}{mark} {}", "", series.name);
        }
        text
    }

    /// As a part of a drawing, `left` pixels from its edge.
    fn svg(&self, left: f64) -> String {
        let [across, up] = self.axes();
        let x_of = |x: f64| left + LEFT + PLOT_WIDTH * across.share(x);
        let y_of = |y: f64| TOP + PLOT_HEIGHT * (1.0 - up.share(y));
        let mut svg = String::new();
        let text = |svg: &mut String, x: f64, y: f64, anchor: &str, words: &str| {
            let _ = writeln!(svg, r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="#777">{}</text>"##, escaped(words));
        };
        text(&mut svg, left + LEFT, TOP - 16.0, "start", &self.title);
        for value in up.ticks(5) {
            let y = y_of(value);
            let (x0, x1) = (left + LEFT, left + LEFT + PLOT_WIDTH);
            let _ = writeln!(svg, r##"<line x1="{x0:.1}" x2="{x1:.1}" y1="{y:.1}" y2="{y:.1}" stroke="#7774"/>"##);
            text(&mut svg, x0 - 6.0, y + 4.0, "end", &(self.label)(value));
        }
        let mut last = f64::NEG_INFINITY;
        for position in self.positions() {
            // Neighbours would be written over each other.
            if x_of(position) - last > 26.0 {
                last = x_of(position);
                text(&mut svg, last, TOP + PLOT_HEIGHT + 18.0, "middle", &short_position(position));
            }
        }
        for (i, series) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let points: Vec<String> = series.points.iter().map(|&(x, y)| format!("{:.1},{:.1}", x_of(x), y_of(y))).collect();
            let _ = writeln!(svg, r##"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"##, points.join(" "));
            for &(x, y) in &series.points {
                let _ = writeln!(svg, r##"<circle cx="{:.1}" cy="{:.1}" r="3.5" fill="{colour}"/>"##, x_of(x), y_of(y));
            }
            let y = TOP + PLOT_HEIGHT + 40.0 + 16.0 * (i / 2) as f64;
            let x = left + LEFT + (i % 2) as f64 * PLOT_WIDTH / 2.0;
            let _ = writeln!(svg, r##"<circle cx="{x:.1}" cy="{:.1}" r="4" fill="{colour}"/>"##, y - 4.0);
            text(&mut svg, x + 9.0, y, "start", &series.name);
        }
        svg
    }
}

/// A drawing of several panels side by side.
pub(crate) fn drawing(panels: &[Panel]) -> String {
    let lines = panels.iter().map(|panel| panel.series.len().div_ceil(2)).max().unwrap_or(0);
    let (width, height) = (WIDTH * panels.len() as f64, HEIGHT + 16.0 * lines.saturating_sub(2) as f64);
    let parts: String = (0..).zip(panels).map(|(i, panel)| panel.svg(WIDTH * f64::from(i))).collect();
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n{parts}</svg>\n"
    )
}

/// 8192 as 8k.
fn short_position(position: f64) -> String {
    let position = position as u64;
    if position > 0 && position.is_multiple_of(1024) { format!("{}k", position / 1024) } else { position.to_string() }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{Panel, Series, drawing, short_position};

    fn panel() -> Panel {
        let series = |name: &str, points: &[(f64, f64)]| Series { name: name.to_owned(), points: points.to_vec() };
        Panel {
            title: "a < b".to_owned(),
            label: |y| format!("{y:.0}"),
            series: vec![series("flat", &[(1024.0, 10.0), (65536.0, 10.0)]), series("steep", &[(1024.0, 10.0), (65536.0, 1000.0)])],
        }
    }

    #[test]
    fn lines_go_from_corner_to_corner() {
        let text = panel().text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].ends_with('x') && lines[14].ends_with('o'), "{text}");
        assert!(lines[16].contains("1k") && lines[16].contains("64k"), "{text}");
    }

    #[test]
    fn a_drawing_is_well_formed() {
        let svg = drawing(&[panel(), panel()]);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("a &lt; b"), "{svg}");
        assert_eq!(svg.matches("<polyline").count(), 4);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn one_point_is_a_chart_too() {
        let mut panel = panel();
        panel.series.truncate(1);
        panel.series[0].points.truncate(1);
        assert!(panel.text().contains('o') && !drawing(&[panel]).contains("NaN"));
    }

    #[test]
    fn positions_are_short() {
        assert_eq!([0.0, 1.0, 1024.0, 1500.0].map(short_position), ["0", "1", "1k", "1500"]);
    }
}
