from simulator.scenario.dump import dump_scenario
from simulator.scenario.load import load_scenario, parse_scenario
from simulator.scenario.scenario import Scenario

__all__ = ["Scenario", "dump_scenario", "load_scenario", "parse_scenario"]
