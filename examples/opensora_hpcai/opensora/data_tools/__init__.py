"""From raw videos to a training table: a module per verb of ``opensora data``. `table` is what all of them stand on."""
