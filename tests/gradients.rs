use resnet_by_hand::verify::{check_layer, known_layers, TensorReport};
#[test]
fn layers() {
    println!("{}", TensorReport::table_header());
    for layer in known_layers() {
        for report in check_layer(layer, 1).unwrap() {
            println!("{report}");
        }
    }
}
