"""What is fastest on this machine: measured by `edgelora tune`, kept in the state folder, used at the next start."""
