"""All properties that are tried here, by group."""

import of_files
import of_handover
import of_limits
import of_paths
import of_processes
import of_surroundings
from properties import SCRIPTS

PROPERTIES = [*SCRIPTS, *of_files.FOUND, *of_processes.FOUND, *of_paths.FOUND, *of_limits.FOUND, *of_surroundings.FOUND, *of_handover.FOUND]
