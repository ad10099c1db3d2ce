//! Bar charts as SVG: for each row of a table a bar for each subject. A table with several units gets
//! a chart for each. Written by hand: a drawing library would be larger than all of this task.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{
    markdown::figure,
    report::{GATE, Row, Table},
};

/// Pixels: the whole width, the names before the bars, the longest bar, a bar with its distance, and
/// a row's heading.
const WIDTH: f64 = 760.0;
const NAMES: f64 = 190.0;
const LONGEST: f64 = 480.0;
const BAR: f64 = 16.0;
const HEADING: f64 = 24.0;
/// Colours of the gate and of its peers, which differ also for those who see few colours.
const GATE_COLOUR: &str = "#0072b2";
const PEER_COLOUR: &str = "#b0b0b0";

/// The charts of a table: name of the file, and contents.
pub(super) fn of_table(table: &Table) -> Vec<(String, String)> {
    let units: BTreeSet<_> = table.rows.iter().map(|row| &*row.unit).collect();
    let chart = |unit: &&str| {
        let rows: Vec<_> = table.rows.iter().filter(|row| row.unit == **unit).collect();
        let name = if units.len() == 1 {
            file_name(&table.name)
        } else {
            file_name(&format!("{}-{unit}", table.name))
        };
        (format!("{name}.svg"), draw(&format!("{}, {unit}", table.name), &rows))
    };
    units.iter().map(chart).collect()
}

fn file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

fn draw(title: &str, rows: &[&Row]) -> String {
    let values = rows.iter().flat_map(|row| row.subjects.iter().map(|one| one.median));
    let largest = values.fold(f64::MIN_POSITIVE, f64::max);
    let mut body = String::new();
    let mut y = HEADING;
    text(&mut body, 8.0, y, "bold", title);
    for row in rows {
        y += HEADING;
        text(&mut body, 8.0, y, "bold", &row.name);
        for measured in &row.subjects {
            y += BAR;
            let width = measured.median.max(0.0) / largest * LONGEST;
            let colour = if measured.name == GATE { GATE_COLOUR } else { PEER_COLOUR };
            let top = y - BAR + 5.0;
            text(&mut body, 16.0, y, "normal", &measured.name);
            let _ = writeln!(
                body,
                "<rect x=\"{NAMES}\" y=\"{top}\" width=\"{width:.1}\" height=\"12\" \
                 fill=\"{colour}\"/>"
            );
            text(&mut body, NAMES + width + 6.0, y, "normal", &figure(measured.median));
        }
    }
    let height = y + HEADING;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn text(body: &mut String, x: f64, y: f64, weight: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(body, "<text x=\"{x:.1}\" y=\"{y}\" font-weight=\"{weight}\">{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::tests::{line, report},
        *,
    };

    /// Fails unless each tag is closed by its own, in order, and text has no bare characters.
    fn assert_well_formed(svg: &str) {
        let mut open = Vec::new();
        for piece in svg.split('<').skip(1) {
            let (tag, rest) = piece.split_once('>').expect("a tag ends");
            assert!(!rest.contains('>'), "a bare > in {rest}");
            assert!(tag.matches('"').count().is_multiple_of(2), "quotes in {tag}");
            let name = tag.split([' ', '/']).find(|word| !word.is_empty()).unwrap();
            match (tag.starts_with('/'), tag.ends_with('/')) {
                (true, _) => assert_eq!(open.pop(), Some(name), "{svg}"),
                (false, false) => open.push(name),
                (false, true) => {}
            }
            for entity in rest.split('&').skip(1) {
                assert!(["amp;", "lt;", "gt;"].iter().any(|known| entity.starts_with(known)));
            }
        }
        assert!(open.is_empty(), "{open:?} not closed");
    }

    #[test]
    fn a_chart_is_well_formed_and_has_a_bar_for_each_subject() {
        let report = report(&[
            line("packets", "SYN <denied> & \"dropped\"", GATE, &[50.0]),
            line("packets", "SYN <denied> & \"dropped\"", "xdp-filter", &[100.0]),
            line("packets", "ACK", GATE, &[0.0]),
        ]);
        let charts = of_table(&report.tables[0]);
        let [(name, svg)] = &charts[..] else { panic!("one unit: {charts:?}") };
        assert_eq!(name, "packets.svg");
        assert_well_formed(svg);
        assert_eq!(svg.matches("height=\"12\"").count(), 3);
        let full = format!("width=\"{LONGEST:.1}\"");
        let half = format!("width=\"{:.1}\"", LONGEST / 2.0);
        assert!(svg.contains(&full) && svg.contains(&half), "{svg}");
    }

    #[test]
    fn each_unit_has_a_chart_of_its_own() {
        let rate = line("control", "pushes", GATE, &[5.0]).replace("\"ns\"", "\"a second\"");
        let report = report(&[line("control", "push", GATE, &[1.0]), rate]);
        let names: Vec<_> = of_table(&report.tables[0]).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["control-a-second.svg", "control-ns.svg"]);
    }
}
