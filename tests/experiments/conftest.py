import sys
from pathlib import Path

# importmode=importlib puts no test folder on the path; the synthetic runs are shared by two test files.
sys.path.insert(0, str(Path(__file__).parent))
