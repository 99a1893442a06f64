"""A small valid space that the tests of the space file change."""

# Nine lines: what a case appends starts on line 10.
BASE = """\
name: t
data: {name: digits}
trainer:
  epochs: 5
search:
  lr: {type: float, low: 0.01, high: 1, log: true}
  num_peers: {type: int, low: 1, high: 4}
  lr_schedule: {type: categorical, choices: [multistep, cosine]}
  lr_decay: {type: float, low: 0.1, high: 0.5, when: {lr_schedule: multistep}}
"""
