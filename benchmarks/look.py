"""What looking at a model costs: processor time of `find_dropout` beside one plain forward pass, within one run.

    python benchmarks/look.py                 a model of BERT-base's size, random weights, batches 8 x 128 and 2 x 16
    python benchmarks/look.py --layers 2      a smaller one

The passes that are made, and what each is for, are in docs/sites.md.
"""

import argparse
import statistics
import time
import warnings

import torch

import allmasks as am


def seconds(call, repeats):
    """Processor seconds of one call, the middle of several."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(num_hidden_layers=given.layers)).eval()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f} million parameters, {given.layers} layers")
    for n, length, wanted in ((8, 128, 3), (2, 16, 6)):
        ids = torch.randint(0, 30000, (n, length))
        mask = torch.ones_like(ids)

        def forward(ids=ids, mask=mask):
            with torch.no_grad():
                model(input_ids=ids, attention_mask=mask)

        def look(ids=ids, mask=mask):
            return am.find_dropout(model, input_ids=ids, attention_mask=mask)

        assert len(look()) == 3 * given.layers + 1
        forward()
        plain, whole = seconds(forward, given.repeats), seconds(look, given.repeats)
        print(
            f"{n} x {length}: {whole:.2f} s beside {plain:.2f} s, {whole / plain:.1f} times (wanted: {wanted})",
            flush=True,
        )


if __name__ == "__main__":
    main()
